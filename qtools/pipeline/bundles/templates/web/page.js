/** The page: a picture from a file or the camera, answers and their time, and the vectors replayed. */

import { accelerators, fetchClient } from "./client.js";
import { crop, goalSize, resize, top } from "./prepare.js";
import { replay, words } from "./replay.js";

const part = (name) => document.getElementById(name);
const TIMES = 30;
const SURE = 0.5; // score of an object that is shown
const WIDE = 320; // pixels that a picture with boxes has at least
const clients = {};
const times = [];
const { notInBrowser } = document.body.dataset;
const ways = JSON.parse(document.body.dataset.answered); // titles of what else answers: whoever serves the page
const asked = new URLSearchParams(location.search); // ?picture=NAME of a vector, ?replay, ?accelerator=webgpu

/** The picture of a file, as the decoder has it: no colour profile, no alpha, turned as its tags say. */
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  return pixels(bitmap, bitmap.width, bitmap.height);
}

function pixels(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

/** Draws what the network sees. */
function show(picture, { preparation }) {
  const [height, width] = goalSize(picture.height, picture.width, preparation);
  const cut = crop(resize(picture, height, width, preparation.resize), preparation.size, preparation.fill);
  const image = new ImageData(cut.width, cut.height);
  for (let from = 0, to = 0; from < cut.data.length; from += 3, to += 4) {
    image.data.set([cut.data[from], cut.data[from + 1], cut.data[from + 2], 255], to);
  }
  part("picture").getContext("2d").putImageData(image, 0, 0);
}

async function chosen() {
  const accelerator = part("accelerator").value;
  clients[accelerator] ??= fetchClient("./", { accelerator });
  return clients[accelerator];
}

function card(title, answers, note) {
  const article = document.createElement("article");
  const list = document.createElement("ol");
  for (const answer of answers) {
    const { probability = answer.score } = answer;
    const row = document.createElement("li");
    const meter = Object.assign(document.createElement("meter"), { value: probability, max: 1 });
    const name = Object.assign(document.createElement("span"), { textContent: called(answer) });
    const share = Object.assign(document.createElement("span"), { textContent: `${(100 * probability).toFixed(1)} %` });
    row.append(name, share, meter);
    list.append(row);
  }
  article.append(
    Object.assign(document.createElement("h2"), { textContent: title }),
    list,
    Object.assign(document.createElement("p"), { textContent: note }),
  );
  return article;
}

const called = ({ index, label }) => label || `class ${index}`;

/** The same for objects: those that are sure, listed and around them their boxes. */
function objects(title, found, note) {
  const sure = found.filter(({ score }) => score >= SURE);
  const rest = found.length - sure.length;
  const article = card(title, sure, `${rest ? `${rest} more below ${100 * SURE} %; ` : ""}${note}`);
  article.querySelector("h2").after(boxed(sure));
  return article;
}

/** What the network sees with boxes; it is drawn large enough for their lines and names. */
function boxed(found) {
  const seen = part("picture");
  const scale = Math.max(1, Math.ceil(WIDE / seen.width));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: scale * seen.width,
    height: scale * seen.height,
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(seen, 0, 0, canvas.width, canvas.height);
  const line = Math.round(canvas.height / 16);
  Object.assign(context, { lineWidth: line / 8, font: `${line}px system-ui, sans-serif`, textBaseline: "top" });
  for (const answer of found) {
    const [left, top, right, bottom] = answer.box.map((each, at) => each * (at % 2 ? canvas.height : canvas.width));
    const colour = `hsl(${(answer.index * 137) % 360} 90% 45%)`;
    context.strokeStyle = context.fillStyle = colour;
    context.strokeRect(left, top, right - left, bottom - top);
    const name = called(answer);
    const at = [Math.max(0, left), Math.max(0, top)];
    context.fillRect(...at, context.measureText(name).width + line / 4, 1.2 * line);
    context.fillStyle = "white";
    context.fillText(name, at[0] + line / 8, at[1] + line / 8);
  }
  return canvas;
}

const HERE = "Artifact, in this browser";
const cards = [];
let latest = 0;

function put(at, article) {
  if (cards[at]) cards[at].replaceWith(article);
  else part("answers").append(article);
  cards[at] = article;
}

/**
 * Answers a picture: in this browser, and by whoever serves the page, where they do. Each answer is shown when it comes;
 * an answer to a picture that is no longer the latest is dropped.
 */
async function answer(picture, { live = false } = {}) {
  const turn = (latest += 1);
  show(picture, await contract());
  const wait = async (title, at, asked) => {
    if (!live || !cards[at]) put(at, card(title, [], "on its way …"));
    const article = await asked().catch((error) => card(title, [], `not run: ${error.message ?? error}`));
    if (turn === latest) put(at, article);
  };
  const refused = async () => card(HERE, [], `not run: ${notInBrowser}`);
  const here = wait(HERE, 0, notInBrowser ? refused : () => own(picture));
  await Promise.all([here, ...ways.map((title, way) => wait(title, way + 1, () => served(picture, way)))]);
}

async function own(picture) {
  const client = await chosen();
  const started = performance.now();
  const found = client.contract.decoding ? await client.detect(picture) : await client.numbers(picture);
  times.push(performance.now() - started);
  if (times.length > TIMES) times.shift();
  const median = [...times].sort((one, other) => one - other)[Math.floor(times.length / 2)];
  const note = `${times.at(-1).toFixed(1)} ms with its preparation, median of ${times.length}: ${median.toFixed(1)} ms`;
  if (client.contract.decoding) return objects(HERE, found, note);
  return card(HERE, top(found, client.contract), note);
}

async function served({ width, height, data }, way) {
  const response = await fetch(`answers?width=${width}&height=${height}&way=${way}`, { method: "POST", body: data });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { answer: found, error } = await response.json();
  if (error) throw new Error(error);
  return found.found ? objects(found.title, found.found, found.note) : card(found.title, found.top, found.note);
}

let said;
function contract() {
  said ??= fetchJson("contract.json");
  return said;
}

async function fetchJson(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response.json();
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    say(`${error.message ?? error}`, true);
  }
}

function say(text, failed = false) {
  part("state").textContent = text;
  part("state").classList.toggle("failed", failed);
}

async function bytes(name) {
  const response = await fetch(`vectors/${name}`);
  if (!response.ok) throw new Error(`vectors/${name}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function replayed() {
  const result = await replay(await chosen(), bytes);
  const good = result.rows.filter((row) => row.passed).length;
  part("log").hidden = false;
  part("log").textContent = result.rows.map(words).join("\n");
  say(`${good} of ${result.rows.length} vectors passed`, !result.passed);
  return result;
}

let stream;
async function camera() {
  const video = part("video");
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = undefined;
    part("camera").textContent = "Camera";
    return;
  }
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  part("camera").textContent = "Stop";
  video.srcObject = stream;
  await video.play();
  while (stream) {
    await answer(pixels(video, video.videoWidth, video.videoHeight), { live: true });
    await new Promise(requestAnimationFrame);
  }
}

function wire() {
  const drop = part("drop");
  const take = (files) => files[0] && guarded(async () => answer(await decode(files[0])));
  part("file").addEventListener("change", (event) => take(event.target.files));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  part("camera").addEventListener("click", () => guarded(camera));
  part("replay").addEventListener("click", () => guarded(replayed));
  part("accelerator").addEventListener("change", () => times.splice(0));
}

/** Puts WebGPU into the list where there is an adapter. Returns what to say where one was asked for and is not here. */
async function offer() {
  const here = (await accelerators()).includes("webgpu");
  const option = new Option(here ? "WebGPU (not audited)" : "WebGPU: no adapter here", "webgpu");
  option.disabled = !here;
  part("accelerator").add(option);
  if (asked.get("accelerator") !== "webgpu") return "";
  if (here) part("accelerator").value = "webgpu";
  return here ? "" : ", on WebAssembly: this browser has no WebGPU adapter";
}

wire();
await guarded(async () => {
  const { labels, output, decoding } = await contract();
  const instead = await offer();
  if (notInBrowser) part("replay").disabled = true;
  else await chosen();
  say(`ready: ${labels.length || output.shape.at(-1) - (decoding ? 1 : 0)} classes${instead}`);
  if (asked.has("picture")) await answer(await decode(new Blob([await bytes(asked.get("picture"))])));
  if (!notInBrowser && asked.has("replay")) await replayed();
});
