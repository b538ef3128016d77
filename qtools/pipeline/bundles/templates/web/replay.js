/** Replays vectors/: is every tensor the recorded one, byte for byte, and every answer near enough? */

import { prepare, realNumbers, top, typed } from "./prepare.js";

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
    const numbers = realNumbers(await client.run(tensor), contract);
    const answers = realNumbers(typed(await read(vector.output), contract.output.dtype), contract);
    const gap = numbers.reduce((most, each, at) => Math.max(most, Math.abs(each - answers[at])), 0);
    const first = top(numbers, contract, 1)[0].index;
    const passed = differing === 0 && gap <= recorded.tolerance.value;
    rows.push({ name: vector.name, what: vector.what, differing, gap, first, expected: vector.top[0].index, passed });
  }
  return { passed: rows.every((row) => row.passed), rows };
}

/** A line per vector. */
export function words({ name, what, differing, gap, first, expected, passed }) {
  const tensor = differing === 0 ? "tensor equal" : `TENSOR DIFFERS in ${differing} bytes`;
  const answer = gap === 0 ? "answer equal" : `answer within ${gap.toPrecision(3)}`;
  const label = first === expected ? "" : ", ANOTHER CLASS";
  return `vector ${name} (${what}): ${tensor}, ${answer}${label}${passed ? "" : "  FAILED"}`;
}
