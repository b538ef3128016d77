/** Runs the artifact beside contract.json, in a page or in Node; knows only the contract. */

import { detect } from "./detect.js";
import { prepare, realNumbers, top } from "./prepare.js";

const RUNTIMES = { onnx: openOnnx, tflite: openTflite };

/** What `accelerator` may be here: "webgpu" only where the browser gives an adapter, which having the API is no sign of. */
export async function accelerators() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  return adapter ? ["wasm", "webgpu"] : ["wasm"];
}

/**
 * Opens an artifact.
 *
 * @param {object} contract What contract.json says.
 * @param {Uint8Array} artifact Bytes of the file that it names.
 * @param {{accelerator?: "wasm" | "webgpu", wasm?: string, threads?: number}} options `accelerator`: "wasm" runs the
 *   integer kernels that were audited; "webgpu" may compute in other widths, so replay the vectors on it before you
 *   trust it. `wasm`: folder with the runtime's .wasm files, as a URL. `threads`: more than one needs a page that is
 *   cross-origin isolated.
 * @returns {Promise<Client>}
 * @throws {Error} Where the accelerator is not here; nothing else is taken in its place.
 */
export async function open(contract, artifact, options = {}) {
  const runtime = RUNTIMES[contract.artifact.format];
  if (runtime === undefined) throw new Error(`no runtime in a browser takes .${contract.artifact.format}`);
  const accelerator = options.accelerator ?? "wasm";
  if (!(await accelerators()).includes(accelerator)) {
    throw new Error(`${accelerator} is not here: this browser has ${(await accelerators()).join(" and ")}`);
  }
  return new Client(contract, await runtime(contract, artifact, options));
}

/** Fetches contract and artifact from a folder, and opens them. */
export async function fetchClient(folder = "./", options = {}) {
  const contract = await (await fetched(`${folder}contract.json`)).json();
  const answer = await fetched(`${folder}${contract.artifact.name}`);
  return open(contract, new Uint8Array(await answer.arrayBuffer()), options);
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer;
}

export class Client {
  #run;

  constructor(contract, run) {
    this.contract = contract;
    this.#run = run;
  }

  /** The output for an input tensor, both as the artifact has them. */
  async run(tensor) {
    return (await this.outputs(tensor))[this.contract.output.name];
  }

  /** All outputs for an input tensor, by name: of a detector there are two. */
  outputs(tensor) {
    return this.#run(tensor);
  }

  /** The real numbers of the output for a picture, one per class. */
  async numbers(picture) {
    return realNumbers(await this.run(prepare(picture, this.contract)), this.contract);
  }

  /** What a detector finds in a picture: class, score and box, the surest first. */
  async detect(picture) {
    const { contract } = this;
    const given = await this.outputs(prepare(picture, contract));
    const real = (said) => realNumbers(given[said.name], contract, said);
    return detect(real(contract.output), real(contract.boxes), contract);
  }

  /** The likeliest classes of a picture. */
  async classify(picture, count = 5) {
    return top(await this.numbers(picture), this.contract, count);
  }
}

async function openOnnx(contract, artifact, options) {
  const webgpu = options.accelerator === "webgpu";
  const ort = await (webgpu ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm"));
  if (options.wasm) ort.env.wasm.wasmPaths = options.wasm;
  ort.env.wasm.numThreads = options.threads ?? 1;
  const session = await ort.InferenceSession.create(artifact, { executionProviders: webgpu ? ["webgpu"] : ["wasm"] });
  const { input } = contract;
  return async (tensor) => {
    const given = new ort.Tensor(input.dtype, tensor, input.shape);
    const answers = await session.run({ [input.name]: given });
    const found = {};
    for (const name of named(contract)) found[name] = await answers[name].getData();
    return found;
  };
}

/** Names of the outputs. */
function named({ output, boxes }) {
  return boxes ? [output.name, boxes.name] : [output.name];
}

let litert; // its WebAssembly module can be loaded once in a page

async function openTflite(contract, artifact, options) {
  const runtime = await import("@litertjs/core");
  litert ??= runtime.loadLiteRt(options.wasm ?? "./node_modules/@litertjs/core/wasm/");
  await litert;
  const model = await runtime.loadAndCompile(artifact, { accelerator: options.accelerator ?? "wasm" });
  return async (tensor) => {
    const given = new runtime.Tensor(tensor, contract.input.shape);
    const answers = await model.run({ [contract.input.name]: given });
    const found = {};
    for (const name of named(contract)) {
      const answer = await answers[name].moveTo("wasm");
      found[name] = answer.toTypedArray().slice();
      if (!answer.deleted) answer.delete();
    }
    if (!given.deleted) given.delete();
    return found;
  };
}
