/** Replays vectors/: is every tensor the recorded one, byte for byte, and every answer near enough? */

import { detect } from "./detect.js";
import { prepare, realNumbers, top, typed } from "./prepare.js";

const SAME = 1e-6; // scores and shares of a side, of outputs that are the recorded ones

/** Whether a detector's recorded outputs are decoded to the recorded objects here. */
function decodes(logits, boxes, found, contract) {
  const here = detect(logits, boxes, contract);
  const near = (one, other) => Math.abs(one - other) <= SAME;
  const same = (one, other) =>
    one.index === other.index && near(one.score, other.score) && one.box.every((each, at) => near(each, other.box[at]));
  return here.length === found.length && here.every((each, at) => same(each, found[at]));
}

/** Largest difference of an output from the recorded one. */
function off(numbers, answers) {
  return numbers.reduce((most, each, at) => Math.max(most, Math.abs(each - answers[at])), 0);
}

/**
 * @param {import("./client.js").Client} client The opened artifact.
 * @param {(name: string) => Promise<Uint8Array>} read Bytes of a file in vectors/.
 * @returns {Promise<{passed: boolean, rows: object[]}>}
 */
export async function replay(client, read) {
  const { contract } = client;
  const recorded = JSON.parse(new TextDecoder().decode(await read("vectors.json")));
  const rows = [];
  for (const vector of recorded.vectors) {
    const picture = { width: vector.width, height: vector.height, data: await read(vector.rgb) };
    const tensor = prepare(picture, contract);
    const bytes = new Uint8Array(tensor.buffer);
    const expected = await read(vector.input);
    const differing = bytes.length === expected.length ? bytes.filter((byte, at) => byte !== expected[at]).length : -1;
    const given = await client.outputs(tensor);
    const both = async (said, file) =>
      [given[said.name], typed(await read(file), said.dtype)].map((each) => realNumbers(each, contract, said));
    const [numbers, answers] = await both(contract.output, vector.output);
    const row = { name: vector.name, what: vector.what, differing, gap: off(numbers, answers) };
    let passed = differing === 0 && row.gap <= recorded.tolerance.value;
    if (contract.boxes) {
      const [boxes, right] = await both(contract.boxes, vector.boxes);
      row.boxesGap = off(boxes, right);
      row.decoded = decodes(answers, right, vector.found, contract);
      row.found = detect(numbers, boxes, contract).length;
      passed &&= row.boxesGap <= recorded.boxes_tolerance.value && row.decoded;
    } else {
      row.first = top(numbers, contract, 1)[0].index;
      row.expected = vector.top[0].index;
    }
    rows.push({ ...row, passed });
  }
  return { passed: rows.every((row) => row.passed), rows };
}

/** A line per vector. */
export function words({ name, what, differing, gap, passed, ...row }) {
  const tensor = differing === 0 ? "tensor equal" : `TENSOR DIFFERS in ${differing} bytes`;
  const within = (off) => (off === 0 ? "equal" : `within ${off.toPrecision(3)}`);
  const objects = () =>
    `, boxes ${within(row.boxesGap)}, ${row.found} found${row.decoded ? "" : ", RECORDED ONES DECODED OTHERWISE"}`;
  const label = row.boxesGap !== undefined ? objects() : row.first === row.expected ? "" : ", ANOTHER CLASS";
  return `vector ${name} (${what}): ${tensor}, answer ${within(gap)}${label}${passed ? "" : "  FAILED"}`;
}
