// Which key plays which action. The server proposes; what a person changes is kept in this browser, by world.

const ARROWS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const NAMES = { Space: "␣", Enter: "⏎", Period: ".", Comma: ",", Minus: "-", Slash: "/", Semicolon: ";" };

export function nameOf(code) {
  return ARROWS[code] ?? NAMES[code] ?? code.replace(/^(Key|Digit)/, "");
}

export class KeyMap {
  constructor(controls) {
    this.controls = controls;
    this.store = `unimodel keys ${controls.map((control) => control.name).join(" ")}`;
    this.keys = controls.map((control) => control.key);
    try {
      const kept = JSON.parse(localStorage.getItem(this.store));
      if (Array.isArray(kept) && kept.length === controls.length) this.keys = kept;
    } catch {
      // A browser that keeps nothing, or kept something else: the usual keys.
    }
  }

  actionOf(code) {
    const action = this.keys.indexOf(code);
    return action < 0 ? null : action;
  }

  // A key does one thing: whoever had it gets the old one.
  set(action, code) {
    const owner = this.keys.indexOf(code);
    if (owner >= 0) this.keys[owner] = this.keys[action];
    this.keys[action] = code;
    this.keep();
  }

  reset() {
    this.keys = this.controls.map((control) => control.key);
    this.keep();
  }

  keep() {
    try {
      localStorage.setItem(this.store, JSON.stringify(this.keys));
    } catch {
      // Private windows may keep nothing; the change lasts as long as the page.
    }
  }
}

// Buttons for all actions that are no chords of others: a pad for the arrows, the rest beside it.
export function drawButtons(pad, others, keyMap, press) {
  pad.replaceChildren();
  others.replaceChildren();
  keyMap.controls.forEach((control, action) => {
    if (control.key === null) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "key";
    button.dataset.action = action;
    const cap = document.createElement("kbd");
    cap.textContent = nameOf(keyMap.keys[action]);
    cap.setAttribute("aria-hidden", "true");
    button.title = `Key ${keyMap.keys[action]}`;
    button.append(control.name.replaceAll("_", " "), cap);
    button.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      button.setPointerCapture(event.pointerId);
      press(action, true);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, () => press(action, false));
    }
    // The keyboard and assistive devices click: a short press.
    button.addEventListener("click", (event) => {
      if (event.detail === 0) {
        press(action, true);
        press(action, false);
      }
    });
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    if (control.key in ARROWS) {
      button.dataset.place = control.key;
      pad.append(button);
    } else {
      others.append(button);
    }
  });
  const places = [...pad.children].map((button) => button.dataset.place);
  pad.classList.toggle("flat", !(places.includes("ArrowUp") && places.includes("ArrowDown")));
}

export function editKeys(dialog, keyMap, changed) {
  const list = dialog.querySelector("ul");
  let waiting = null;
  const draw = () => {
    list.replaceChildren(
      ...keyMap.controls.flatMap((control, action) => {
        if (control.key === null) return [];
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.className = waiting === action ? "waiting" : "";
        button.textContent = waiting === action ? "press a key" : nameOf(keyMap.keys[action]);
        button.setAttribute("aria-label", `${control.name}: ${button.textContent}`);
        button.addEventListener("click", () => {
          waiting = action;
          draw();
          list.querySelector(".waiting")?.focus();
        });
        item.append(control.name.replaceAll("_", " "), button);
        return [item];
      }),
    );
  };
  dialog.onkeydown = (event) => {
    if (waiting === null || event.code === "Tab") return;
    event.preventDefault();
    const action = waiting;
    waiting = null;
    if (event.code !== "Escape" && event.code) keyMap.set(action, event.code);
    changed();
    draw();
    list.children[action]?.querySelector("button").focus();
  };
  dialog.querySelector("#usual-keys").onclick = () => {
    keyMap.reset();
    waiting = null;
    changed();
    draw();
  };
  dialog.querySelector("#close-keys").onclick = () => dialog.close();
  draw();
  dialog.showModal();
}
