// The page of `unimodel play`: keys go up, pictures come down; the server owns the clock and the world.

import { KeyMap, drawButtons, editKeys } from "./keys.js";
import { Life } from "./life.js";
import { Screen } from "./screen.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const NO_ENTRY = 4401;
const RETRY_SECONDS = [1, 2, 4, 8];
const NOTICE_SECONDS = 6;

let socket = null;
let welcome = null;
let state = null;
let keyMap = null;
let retries = 0;
const down = new Map(); // action -> how many keys, buttons and fingers hold it

const screen = new Screen([...document.querySelectorAll(".panel")], (frame) => {
  say({ type: "ack", frame: frame.id });
  showFrame(frame);
});
const timeline = new Timeline(
  { rewind: $("rewind"), psnr: $("psnr"), branches: $("branches"), where: $("where") },
  (step) => say({ type: "rewind", step }),
  (branch) => say({ type: "switch", branch }),
);

const life = new Life((name) => hello("ask", name));

// --- the connection ---------------------------------------------------------------------------------------------------

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function hello(joining = "ask", name = null) {
  say({ type: "hello", token: sessionStorage.getItem("token"), session: sessionStorage.getItem("world"), joining, name });
}

function connect() {
  if (!sessionStorage.getItem("token")) {
    $("enter").showModal();
    return;
  }
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws`);
  socket.addEventListener("open", () => {
    $("away").hidden = true;
    hello();
  });
  socket.addEventListener("message", (event) => hear(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => gone(event.code, event.reason));
}

function gone(code, reason) {
  letGo();
  if (code === NO_ENTRY) {
    sessionStorage.removeItem("token");
    notice({ level: "error", text: `${sentence(reason || "the token is wrong")}` });
    $("enter").showModal();
    return;
  }
  $("away").hidden = false;
  $("away").querySelector("p").textContent = reason ? `The server closed the connection: ${reason}.` : "The server does not answer. This page goes on trying.";
  // A server that was killed or is being started again gives no reason: it may come back at any time.
  if (!reason) {
    const seconds = RETRY_SECONDS[Math.min(retries++, RETRY_SECONDS.length - 1)];
    setTimeout(() => { if (!$("away").hidden && socket.readyState === WebSocket.CLOSED) connect(); }, 1000 * seconds);
  }
}

function hear(message) {
  if (message.type === "welcome") showWelcome(message);
  else if (message.type === "occupied") $("occupied").showModal();
  else if (message.type === "state") showState(message);
  else if (message.type === "frame") screen.show(message);
  else if (message.type === "notice") notice(message);
}

// --- what is shown ----------------------------------------------------------------------------------------------------

function showWelcome(message) {
  if (retries && message.world) notice({ level: "info", text: "Connected again: the same world goes on." });
  welcome = message;
  retries = 0;
  sessionStorage.setItem("world", message.session);
  $("page").hidden = false;
  document.title = `${message.world ?? message.run.split("/").pop()}: unimodel play`;
  document.body.className = message.world === null ? "alone" : "together";
  life.setWelcome(message);
  keyMap = new KeyMap(message.controls);
  drawKeys();
  $("compare").hidden = !message.can_compare;
  const idle = message.controls.find((control) => control.is_idle);
  $("step").disabled = !idle;
  $("step").title = idle ? `One step with “${idle.name}”, or with what is held` : "Every action does something here: press a key";
  $("tell-title").textContent = message.hears_events ? "Make something happen" : "Tell the world";
  $("tell-hint").textContent = message.hears_events
    ? `It happens with the next step${message.real ? ", in the real environment too where it can" : ""}.`
    : `The new mission, from the next step on.${message.real ? " The real environment does not hear it." : ""}`;
  $("text").title = `At most ${message.text_tokens} tokens`;
  const watching = message.role === "watcher";
  for (const element of document.querySelectorAll("main button, main input")) element.disabled ||= watching;
  $("away").hidden = !watching;
  $("away").querySelector("p").textContent = "You are watching a world that somebody else plays.";
  $("away").querySelector("button").textContent = watching ? "Take over" : "Connect again";
  if (!watching) for (const element of document.querySelectorAll("main button, main input")) element.disabled = element.id === "step" && !idle;
}

function showState(message) {
  if (message.trial && !state?.trial) scrollTo(0, 0);
  state = message;
  const trial = message.trial;
  const by = trial ? ["two checkpoints"] : ["checkpoint ", strong(welcome.dreamed_by)];
  $("label").replaceChildren("Frames generated by ", ...by, ", not the real game.");
  if (message.life) life.setState(message.life, message.step);
  const notes = { world: welcome.world ?? "", dream: "what the model makes of it", real: welcome.real ? `${welcome.real.split(":").pop()}, the same keys` : "" };
  screen.setPanels(message.panels, notes);
  $("mission").hidden = !message.mission;
  $("mission").querySelector("b").textContent = message.mission;
  showEvents(message);
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === message.mode;
  const realTime = message.mode === "real_time";
  $("pause").hidden = !realTime;
  $("pause").textContent = message.paused ? "Resume" : "Pause";
  $("time-hint").textContent = timeHint(message, realTime);
  $("which").textContent = trial ? "" : `${message.episode + 1} of ${welcome.episodes}`;
  $("world").hidden = trial !== null;
  $("next").hidden = welcome.episodes < 2;
  $("record").setAttribute("aria-pressed", String(message.recording.on));
  $("record").querySelector("span").textContent = message.recording.on ? "Stop recording" : "Record";
  $("recorded").hidden = !message.recording.folder;
  $("recorded").textContent = `Recorded into ${message.recording.folder}`;
  $("agreement").hidden = trial !== null || message.life !== null;
  timeline.setState(message);
  showTrial(trial);
}

// What was said to happen: the last of it, and what comes with the next step.
function showEvents({ mission, events, coming }) {
  const lines = events.slice(-1).map(({ step, text }) => [`At step ${step}: `, strong(text)]);
  lines.push(...coming.map((text) => ["With the next step: ", strong(text)]));
  $("events").hidden = !lines.length;
  $("events").replaceChildren(...lines.flatMap((parts, i) => (i ? [" · ", ...parts] : parts)));
  if (!welcome.hears_events) $("text").placeholder = mission;
}

function timeHint(message, realTime) {
  if (message.paused && message.why_paused) return `Paused: ${message.why_paused}. A key takes one step.`;
  if (realTime && message.paused) return "Paused. A key takes one step.";
  return realTime ? `${welcome.fps} steps a second, with whatever you hold.` : "Time moves when you press a key. Hold it to go on.";
}

function showFrame(frame) {
  timeline.setFrame(frame);
  if (welcome.world) life.setFrame(frame, (action) => welcome.controls[action].name.replaceAll("_", " "));
  const agreement = $("agreement");
  const [what, more] = agreement.querySelectorAll("b, span");
  const known = frame.psnr !== null;
  const once = frame.differs_at !== null && !(frame.differs && frame.differs_at === frame.step);
  agreement.classList.toggle("differs", frame.differs);
  what.textContent = !known ? "" : frame.differs ? "≠ Differs visibly from reality" : `= Looks like reality${once ? "" : " so far"}`;
  more.textContent = [once ? `first differed at step ${frame.differs_at}` : "", known ? `PSNR ${frame.psnr.toFixed(1)} dB` : ""].filter(Boolean).join(" · ");
  $("real-note").hidden = !frame.real_note || !frame.pictures[1];
  $("real-note").textContent = frame.real_note ?? "";
  if (welcome.hears_events) showPossible(frame.possible);
  const { fps, passes, p50_ms: p50, p95_ms: p95, dropped } = frame.measured;
  $("measured").textContent = [
    fps === null ? "" : `${fps.toFixed(1)} pictures/s`,
    `${passes} ${passes === 1 ? "pass" : "passes"} a picture`,
    p50 === null ? "" : `key to picture ${Math.round(p50)} ms, p95 ${Math.round(p95)} ms`,
    dropped ? `${dropped} late pictures left out` : "",
  ].filter(Boolean).join(" · ");
}

function showPossible(sentences) {
  $("text").placeholder = sentences[0] ?? "";
  $("possible").replaceChildren(...sentences.map((sentence) => {
    const option = document.createElement("option");
    option.value = sentence;
    return option;
  }));
}

function showTrial(trial) {
  $("vote").hidden = trial === null;
  if (trial === null) return;
  const result = trial.result;
  for (const button of document.querySelectorAll("[data-vote]")) button.hidden = result !== null;
  $("next-trial").hidden = result === null;
  $("votes").hidden = result === null;
  if (result === null) {
    $("vote-question").textContent = `Pair ${trial.number}: play both with the same keys. Which world would you rather play in?`;
    return;
  }
  $("vote-question").textContent = result.choice === "same" ? "You saw no difference." : `You chose the ${result.choice} one.`;
  const lines = ["left", "right"].map((side) => [`${side === "left" ? "Left" : "Right"} was `, strong(result[side]), `, chosen ${times(result.wins[result[side]])}.`]);
  lines.push([`No difference was seen ${times(result.same)}.`]);
  $("votes").replaceChildren(...lines.map((parts) => {
    const item = document.createElement("li");
    item.append(...parts);
    return item;
  }));
}

function times(count) {
  return count === 1 ? "once" : `${count} times`;
}

function strong(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function notice({ level, text }) {
  const line = document.createElement("p");
  line.className = level;
  line.textContent = text;
  $("notices").append(line);
  while ($("notices").children.length > 3) $("notices").firstChild.remove();
  setTimeout(() => line.remove(), 1000 * NOTICE_SECONDS);
}

// --- keys -------------------------------------------------------------------------------------------------------------

function drawKeys() {
  drawButtons($("pad"), $("others"), keyMap, press);
}

function press(action, isDown) {
  const held = down.get(action) ?? 0;
  if (!isDown && !held) return;
  const now = held + (isDown ? 1 : -1);
  if (now) down.set(action, now);
  else down.delete(action);
  document.querySelector(`.key[data-action="${action}"]`)?.classList.toggle("down", now > 0);
  if (now === (isDown ? 1 : 0)) say({ type: "key", action, down: isDown });
}

function letGo() {
  if (!down.size) return;
  for (const action of down.keys()) document.querySelector(`.key[data-action="${action}"]`)?.classList.remove("down");
  down.clear();
  heldKeys.clear();
  say({ type: "release" });
}

const heldKeys = new Map(); // code -> the action that it had when it went down

// What has the focus keeps the keys that it needs itself.
function isTaken(event) {
  const target = event.target;
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return true;
  if (target.matches?.("input[type=text], input[type=password]")) return true;
  if (target.matches?.("input")) return event.code.startsWith("Arrow") || event.code === "Space";
  return target.matches?.("button") && (event.code === "Space" || event.code === "Enter");
}

addEventListener("keydown", (event) => {
  if (!keyMap || isTaken(event)) return;
  const action = keyMap.actionOf(event.code);
  if (action === null) return;
  event.preventDefault();
  if (event.repeat || heldKeys.has(event.code)) return;
  heldKeys.set(event.code, action);
  press(action, true);
});
addEventListener("keyup", (event) => {
  const action = heldKeys.get(event.code);
  if (action === undefined) return;
  heldKeys.delete(event.code);
  press(action, false);
});
addEventListener("blur", letGo);
document.addEventListener("visibilitychange", () => { if (document.hidden) letGo(); });
// After a click with the mouse or a finger the keys belong to the world again.
addEventListener("click", (event) => {
  if (event.detail === 0 || event.target.closest?.("dialog")) return;
  giveKeysBack();  // at once: an arrow key that comes quickly would choose another radio button
  setTimeout(giveKeysBack);  // a label hands the focus on later
});

function giveKeysBack() {
  if (document.activeElement?.matches("main button, main input:not([type=text])")) document.activeElement.blur();
}

// --- wishes -----------------------------------------------------------------------------------------------------------

const wishes = {
  pause: () => ({ type: "pause", paused: !state.paused }),
  step: () => ({ type: "step" }),
  branch: () => ({ type: "branch" }),
  again: () => ({ type: "restart" }),
  next: () => ({ type: "restart", episode: (state.episode + 1) % welcome.episodes }),
  record: () => ({ type: "record", on: !state.recording.on }),
  compare: () => ({ type: "compare", on: true }),
  "next-trial": () => ({ type: "compare", on: true }),
  "end-trial": () => ({ type: "compare", on: false }),
};
for (const [id, wish] of Object.entries(wishes)) $(id).addEventListener("click", () => say(wish()));
for (const radio of document.getElementsByName("mode")) {
  radio.addEventListener("change", () => say({ type: "mode", mode: radio.value }));
}
for (const button of document.querySelectorAll("[data-vote]")) {
  button.addEventListener("click", () => say({ type: "vote", choice: button.dataset.vote }));
}
$("tell").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text) say({ type: "text", text });
  $("text").value = "";
  $("text").blur();
});
$("edit-keys").addEventListener("click", () => {
  letGo();
  editKeys($("keys"), keyMap, drawKeys);
});
for (const button of document.querySelectorAll("[data-joining]")) {
  button.addEventListener("click", () => {
    $("occupied").close();
    if (button.dataset.joining === "new") sessionStorage.removeItem("world");
    hello(button.dataset.joining === "new" ? "ask" : button.dataset.joining);
  });
}
$("away").querySelector("button").addEventListener("click", () => {
  if (welcome?.role === "watcher" && socket?.readyState === WebSocket.OPEN) hello("take_over");
  else connect();
});
$("enter").querySelector("form").addEventListener("submit", () => {
  sessionStorage.setItem("token", $("token").value.trim().replace(/^.*#/, ""));
  $("token").value = "";
  connect();
});

// The token comes behind # and leaves the address bar at once, so that it is in no history and no copied address.
if (location.hash.length > 1) {
  sessionStorage.setItem("token", decodeURIComponent(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname);
}
connect();
