/** npm start: serves this folder on this machine only, cross-origin isolated, so that WebAssembly may have threads. */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const PORT = Number(process.env.PORT ?? 8000);
const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".png": "image/png",
  ".wasm": "application/wasm",
};

createServer(async (request, response) => {
  const asked = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const path = normalize(join(ROOT, asked.endsWith("/") ? `${asked}index.html` : asked));
  try {
    if (!path.startsWith(ROOT.endsWith(sep) ? ROOT : ROOT + sep)) throw new Error("outside");
    const body = await readFile(path);
    response.writeHead(200, {
      "Content-Type": TYPES[extname(path)] ?? "application/octet-stream",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
      "Cache-Control": "no-cache",
    });
    response.end(body);
  } catch {
    response.writeHead(404, { "Content-Type": "text/plain" });
    response.end("not here\n");
  }
}).listen(PORT, "127.0.0.1", () => console.log(`http://127.0.0.1:${PORT}/`));
