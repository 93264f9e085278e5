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
    this.actors = [];
    this.seats = []; // what each of several agents is called
    this.taken = []; // by whom
    $("rename").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = $("name").value.trim();
      if (name && name !== this.you) rename(name);
      $("name").blur();
    });
  }

  setWelcome({ you, seats }) {
    this.you = you;
    this.seats = seats;
    if (you && document.activeElement !== $("name")) $("name").value = you;
  }

  setState(life, tick) {
    this.agents = life.agents;
    this.taken = life.seats;
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

  // `nameOf` tells an action's name.
  setFrame({ step, agent, action, acts }, nameOf) {
    this.actors = acts.length ? acts.filter((act) => act.action !== null).map((act) => act.agent) : [agent];
    this.setTick(step);
    const who = (name) => (name === this.you ? "You" : name);
    const each = acts.map((act, seat) => `${this.seats[seat]}, ${act.agent === null ? "nobody" : `${who(act.agent)}: ${act.action === null ? "nothing known" : nameOf(act.action)}`}`);
    const alone = action === null ? "" : agent === null ? `Nobody did anything (${nameOf(action)})` : `${who(agent)}: ${nameOf(action)}`;
    $("deed").textContent = acts.length ? each.join(" · ") : alone;
    this.draw();
  }

  setTick(tick) {
    $("tick").textContent = `tick ${tick.toLocaleString()}`;
  }

  draw() {
    const seatOf = (name) => this.seats[this.taken.indexOf(name)];
    $("seat").hidden = !this.seats.length || !this.agents;
    $("seat").textContent = seatOf(this.you) ? `You are ${seatOf(this.you)}.` : "All agents are taken: you look on until one is free.";
    $("agents").replaceChildren(...(this.agents ?? []).map(({ name, since }) => {
      const part = this.seats.length ? `, ${seatOf(name) ?? "looks on"}` : "";
      const person = element("li", `${name === this.you ? `${name} (you)` : name}${part}`);
      person.title = `Here since tick ${since}`;
      person.classList.toggle("acted", this.actors.includes(name));
      return person;
    }));
  }
}
