// The jobs: loads and verifications, running and ended.
import { element, show } from "./dom.js";
import { ago, bytes, count, percent } from "./format.js";
import { get, send } from "./api.js";

const STATES = { running: "accent", completed: "good", canceled: "warn", failed: "bad" };

export function jobs(main, { fail }) {
  const list = element("div");
  show(main,
    element("h1", { textContent: "Jobs" }),
    element("p", { class: "lead", textContent: "A load fetches images before the first pull. A verification hashes the stored content." }),
    list);
  let shown = "";
  return async function refresh() {
    const { jobs: all } = await get("/api/v1/jobs");
    const text = JSON.stringify(all);
    if (text === shown) return;
    shown = text;
    const cancel = async (id) => {
      try {
        await send("DELETE", `/api/v1/jobs/${encodeURIComponent(id)}`);
      } catch (error) {
        fail(error);
      }
    };
    const focused = document.activeElement?.id;
    if (all.length === 0) show(list, element("p", { class: "empty", textContent: "No job has run since the start of the cache." }));
    else show(list, element("ul", { class: "list" }, all.map((job) => jobItem(job, cancel))));
    if (focused) document.getElementById(focused)?.focus();
  };
}

function jobItem(job, cancel) {
  const { objects = 0, objectsTotal, bytes: done = 0, bytesTotal } = job.progress ?? {};
  return element("li", {},
    element("div", { class: "line" },
      element("strong", { textContent: `${job.kind === "load" ? "Load" : "Verification"} ${job.job}` }),
      element("span", {}, element("span", { class: `badge ${STATES[job.state] ?? ""}`, textContent: job.state }))),
    job.state === "running" && element("progress", { "aria-label": `Progress of job ${job.job}`, ...(bytesTotal ? { max: bytesTotal, value: Math.min(done, bytesTotal) } : {}) }),
    element("div", { class: "line numbers" },
      element("span", { textContent: `${count(objects)}${objectsTotal ? ` of ${count(objectsTotal)}` : ""} objects, ${bytes(done)}${bytesTotal ? ` · ${percent(done, bytesTotal)}` : ""}` }),
      element("span", { textContent: `began ${ago(job.beganAt)}` })),
    (job.images ?? []).map((image) => element("div", { class: "line numbers" }, element("span", { textContent: image.image }), element("span", { textContent: bytes(image.bytes) }))),
    job.error && element("p", { class: "error", textContent: job.error }),
    job.state === "running" && element("div", {}, element("button", { type: "button", id: `cancel-${job.job}`, textContent: `Cancel job ${job.job}`, on: { click: () => cancel(job.job) } })));
}
