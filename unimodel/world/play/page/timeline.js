// Where one is in a world's history: the fidelity of the current branch, a slider over it, and the tree of branches.

const SVG = "http://www.w3.org/2000/svg";
const PSNR_FROM = 10;
const PSNR_TO = 50;

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export class Timeline {
  constructor({ rewind, psnr, branches, where }, rewindTo, switchTo) {
    Object.assign(this, { rewind, psnr, branches, where, switchTo });
    this.lines = [];
    this.values = [];
    this.differsAt = null; // comes with frames
    let asked = null;
    // While the thumb is dragged, at most one wish per picture of the screen.
    rewind.addEventListener("input", () => {
      if (asked === null) requestAnimationFrame(() => {
        rewindTo(asked);
        asked = null;
      });
      asked = Number(rewind.value);
    });
  }

  // A new state: everything may have changed.
  setState(state) {
    this.lines = state.branches.map((line) => ({ ...line }));
    this.values = [...state.psnr];
    this.branch = state.branch;
    this.step = state.step;
    this.draw();
  }

  // One more frame of the branch that is shown.
  setFrame(frame) {
    if (frame.branch !== this.branch || !this.lines.length) return;
    this.step = frame.step;
    this.values[frame.step] = frame.psnr;
    this.differsAt = frame.differs_at;
    const line = this.lines[this.branch];
    if (frame.step > line.tip) line.tip = frame.step;
    this.draw();
  }

  draw() {
    const longest = Math.max(1, ...this.lines.map((line) => line.tip));
    const tip = this.lines[this.branch].tip;
    this.where.textContent = `step ${this.step} of ${tip}`;
    this.rewind.max = tip;
    this.rewind.value = this.step;
    this.rewind.disabled = tip === 0;
    this.rewind.style.width = `max(16px, ${(100 * tip) / longest}%)`;
    this.drawPsnr(longest);
    this.drawBranches(longest);
  }

  drawPsnr(longest) {
    const height = (value) => 100 - (100 * (Math.min(PSNR_TO, Math.max(PSNR_FROM, value)) - PSNR_FROM)) / (PSNR_TO - PSNR_FROM);
    const points = this.values.flatMap((value, step) => (value == null ? [] : [`${(1000 * step) / longest} ${height(value)}`]));
    this.psnr.setAttribute("viewBox", "0 0 1000 100");
    this.psnr.setAttribute("preserveAspectRatio", "none");
    this.psnr.replaceChildren();
    this.psnr.parentElement.hidden = points.length === 0;
    if (points.length > 1) this.psnr.append(shape("path", { d: `M${points.join("L")}` }));
    if (this.differsAt !== null) {
      const x = (1000 * this.differsAt) / longest;
      this.psnr.append(shape("path", { class: "mark", d: `M${x} 0V100` }));
    }
    const now = this.values[this.step];
    this.psnr.previousElementSibling.textContent = now == null ? "PSNR" : `${now.toFixed(1)} dB`;
    this.psnr.setAttribute("aria-label", now == null ? "" : `Likeness to reality by step; now ${now.toFixed(1)} dB`);
  }

  drawBranches(longest) {
    const shown = this.lines.length > 1 ? this.lines : [];
    while (this.branches.children.length > shown.length) this.branches.lastChild.remove();
    while (this.branches.children.length < shown.length) this.branches.append(this.row(this.branches.children.length));
    shown.forEach((line, number) => {
      const button = this.branches.children[number].firstChild;
      const name = number === 0 ? "Main" : `Branch ${number}`;
      const from = number === 0 ? "" : ` from step ${line.fork} of ${line.parent === 0 ? "Main" : `Branch ${line.parent}`}`;
      button.setAttribute("aria-current", String(number === this.branch));
      button.setAttribute("aria-label", `${name}${from}, ${line.tip} steps`);
      button.title = `${name}${from}`;
      button.querySelector(".name").textContent = name;
      const [shared, own] = button.querySelectorAll("line");
      const x = (step) => String((1000 * Math.max(0, step)) / longest);
      shared.setAttribute("x2", x(line.fork));
      own.setAttribute("x1", x(line.fork));
      own.setAttribute("x2", x(line.tip));
    });
  }

  row(number) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "track";
    const name = document.createElement("span");
    name.className = "name";
    const svg = shape("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(shape("line", { class: "shared", x1: 0, x2: 0, y1: 8, y2: 8 }), shape("line", { x1: 0, x2: 0, y1: 8, y2: 8 }));
    button.append(name, svg);
    button.addEventListener("click", () => this.switchTo(number));
    item.append(button);
    return item;
  }
}
