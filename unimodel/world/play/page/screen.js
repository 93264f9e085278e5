// The two pictures. Frames are drawn in order, and acknowledged when they are on the screen.

const TITLES = { dream: "Dream", real: "Real", left: "Left", right: "Right", world: "World" };

async function decoded(picture) {
  if (!picture) return null;
  const image = new Image();
  image.src = `data:image/png;base64,${picture}`;
  await image.decode();
  return image;
}

export class Screen {
  constructor(figures, drawn) {
    this.figures = figures;
    this.drawn = drawn;
    this.last = Promise.resolve();
  }

  setPanels(panels, notes) {
    this.figures.forEach((figure, i) => {
      figure.hidden = i >= panels.length;
      if (figure.hidden) return;
      const [title, note] = figure.querySelectorAll("figcaption > *");
      title.textContent = TITLES[panels[i]];
      note.textContent = notes[panels[i]] ?? "";
      note.title = note.textContent;
    });
    this.panels = panels;
  }

  show(frame) {
    const pictures = Promise.all(frame.pictures.map(decoded));
    this.last = this.last.then(async () => {
      const images = await pictures;
      await new Promise(requestAnimationFrame);
      images.forEach((image, i) => this.draw(i, image, frame));
      this.drawn(frame);
    });
  }

  draw(number, image, frame) {
    const figure = this.figures[number];
    const canvas = figure.querySelector("canvas");
    const absent = figure.querySelector(".screen p");
    absent.hidden = image !== null;
    absent.textContent = image === null ? (frame.real_note ?? "Nothing to see here.") : "";
    const context = canvas.getContext("2d");
    if (image === null) {
      context.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    if (canvas.width !== image.width || canvas.height !== image.height) {
      canvas.width = image.width;
      canvas.height = image.height;
    }
    context.drawImage(image, 0, 0);
    const branch = frame.branch ? ` of branch ${frame.branch}` : "";
    canvas.setAttribute("aria-label", `${TITLES[this.panels[number]]}, step ${frame.step}${branch}`);
  }
}
