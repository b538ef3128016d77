/** npm test: replays the vectors in Node; exit status 0 where all pass. */

import { readFile } from "node:fs/promises";

import { open } from "./client.js";
import { replay, words } from "./replay.js";

const bytes = async (name) => new Uint8Array(await readFile(new URL(name, import.meta.url)));
const contract = JSON.parse(new TextDecoder().decode(await bytes("contract.json")));
if (contract.artifact.format === "tflite") {
  console.log("not run: LiteRT.js runs in browsers only; open the page with ?replay");
  process.exit(3);
}
const client = await open(contract, await bytes(contract.artifact.name));
const { passed, rows } = await replay(client, (name) => bytes(`vectors/${name}`));
rows.forEach((row) => console.log(words(row)));
console.log(`${rows.filter((row) => row.passed).length} of ${rows.length} vectors passed`);
process.exit(passed ? 0 : 1);
