// A child of runqy's worker in Node.js. `handle` is yours, the rest is the protocol of its children.
import { createHash } from "node:crypto";

class Retry extends Error {} // fails a run, and asks for another one

async function handle({ urls }, progress, signal) {
  const sums = {};
  for (const [index, url] of urls.entries()) {
    const retry = (error) => { throw new Retry(`${url}: ${error.cause?.code ?? error.message}`); };
    const response = await fetch(url, { signal }).catch(retry);
    if (!response.ok) throw new Error(`${url}: HTTP status ${response.status}`);
    const content = Buffer.from(await response.arrayBuffer().catch(retry));
    sums[url] = createHash("sha256").update(content).digest("hex");
    progress(index + 1, urls.length);
  }
  return sums;
}

const running = new Map(); // what cancels each task
const send = (line) => process.stdout.write(JSON.stringify(line) + "\n");
async function run({ task_id, payload }) {
  running.set(task_id, new AbortController());
  const progress = (current, total) => send({ task_id, progress: { current, total } });
  const response = await handle(payload, progress, running.get(task_id).signal).then(
    (result) => ({ task_id, result: result ?? null }),
    (error) => ({ task_id, error: String(error?.stack ?? error), retry: error instanceof Retry }),
  );
  running.delete(task_id); // before the response, after which the same task may come again
  send(response);
}

const isConcurrent = process.env.RUNQY_CHILD_PROTOCOL === "2";
send({ status: "ready", accepts: isConcurrent ? ["concurrent"] : ["cancel"], ...(isConcurrent && { concurrency: 32 }) });
const receive = (line) => (line.control ? running.get(line.task_id)?.abort() : run(line));
let rest = "";
for await (const part of process.stdin.setEncoding("utf8")) {
  const lines = (rest + part).split("\n"); // node:readline also splits at U+2028, which a payload may contain
  rest = lines.pop();
  lines.forEach((text) => receive(JSON.parse(text)));
}
