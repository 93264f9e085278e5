// A shared world that is kept: who is in it, whose the last step was, and what has happened besides steps.

const $ = (id) => document.getElementById(id);

function element(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

function bytes(count) {
  if (count < 10_000) return `${count.toLocaleString()} bytes`;
  return count < 10_000_000 ? `${Math.round(count / 1000).toLocaleString()} kB` : `${Math.round(count / 1e6).toLocaleString()} MB`;
}

function ago(seconds) {
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    const count = Math.floor(seconds / size);
    if (count) return `${count} ${unit}${count > 1 ? "s" : ""}`;
  }
  return "less than a minute";
}

export class Life {
  constructor(rename) {
    this.actor = null;
    $("rename").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = $("name").value.trim();
      if (name && name !== this.you) rename(name);
      $("name").blur();
    });
  }

  setWelcome({ you }) {
    this.you = you;
    if (you && document.activeElement !== $("name")) $("name").value = you;
  }

  setState(life, tick) {
    this.agents = life.agents;
    $("age").textContent = `${ago(Date.now() / 1000 - life.born)} old`;
    $("kept").textContent = `On the disk: ${bytes(life.log_bytes)}. Remembered beyond the window: ${life.memory_bytes ? bytes(life.memory_bytes) : "nothing"}.`;
    $("notes").replaceChildren(...life.notes.map((note) => {
      const line = element("li", "");
      line.append(element("span", `${note.tick}`, "tick"), element("span", note.text));
      return line;
    }));
    this.draw();
    this.setTick(tick);
  }

  setFrame(frame, action) {
    this.actor = frame.agent;
    this.setTick(frame.step);
    $("deed").textContent = action === null ? "" : frame.agent === null ? `Nobody did anything (${action})` : `${frame.agent === this.you ? "You" : frame.agent}: ${action}`;
    this.draw();
  }

  setTick(tick) {
    $("tick").textContent = `tick ${tick.toLocaleString()}`;
  }

  draw() {
    $("agents").replaceChildren(...(this.agents ?? []).map(({ name, since }) => {
      const person = element("li", name === this.you ? `${name} (you)` : name);
      person.title = `Here since tick ${since}`;
      person.classList.toggle("acted", name === this.actor);
      return person;
    }));
  }
}
