// The overview: tiles, downloads in progress, registries and the images used last.
import { element, show } from "./dom.js";
import { ago, bytes, count, counted, percent, span } from "./format.js";
import { ApiError, get, permitted, text } from "./api.js";

/** The listing by use looks at all images, so a large store has none here. */
const RECENT_OBJECTS_MAX = 50000;
const RECENT_EVERY_MS = 10000;

/** The metrics are large, so the page reads them less often than the other data. */
const TRAFFIC_EVERY_MS = 5000;

export function overview(main, { signIn }) {
  const tiles = element("div", { class: "tiles" });
  const fills = element("div");
  const registries = element("div");
  const recent = element("section", { hidden: true, "aria-labelledby": "recent-title" });
  const locked = element("div");
  show(
    main,
    element("h1", { textContent: "Overview" }),
    tiles,
    locked,
    section("fills-title", "Downloads in progress", fills),
    section("registries-title", "Registries", registries),
    recent,
  );
  let recentAt = 0;
  let trafficAt = 0;
  let traffic = { sent: 0, received: 0 };

  return async function refresh() {
    const isTrafficDue = Date.now() - trafficAt > TRAFFIC_EVERY_MS;
    if (isTrafficDue) trafficAt = Date.now();
    const [store, list, fillList, metrics] = await Promise.all([
      permitted(get("/api/v1/stats")),
      permitted(get("/_/stats")),
      permitted(get("/api/v1/fills")),
      isTrafficDue ? permitted(text("/metrics")) : null,
    ]);
    if (metrics !== null) traffic = trafficOf(metrics);
    if (list === null && store === null) throw new ApiError(401, "");
    const hasRole = fillList !== null;
    if (!hasRole && !locked.hasChildNodes()) {
      show(locked, element("div", { class: "empty" }, "Downloads and images need a token. ", element("button", { type: "button", textContent: "Sign in", on: { click: signIn } })));
    }
    if (hasRole) show(locked);
    fills.parentElement.hidden = !hasRole;
    showTiles(tiles, { store, registries: list ?? {}, fills: fillList?.fills, traffic });
    if (hasRole) showFills(fills, fillList.fills);
    showRegistries(registries, list ?? {});
    if (hasRole && store !== null && store.objects < RECENT_OBJECTS_MAX && Date.now() - recentAt > RECENT_EVERY_MS) {
      recentAt = Date.now();
      showRecent(recent, await permitted(get("/api/v1/images?sort=-used&limit=8&pattern=%5E%5B%5E%40%5D%2B%24")));
    }
  };
}

function section(id, title, content) {
  return element("section", { "aria-labelledby": id }, element("h2", { id, textContent: title }), content);
}

/** Returns the bytes for clients and the bytes from registries in the metrics. */
function trafficOf(metrics) {
  const sum = (name, wanted) => {
    let total = 0;
    for (const line of metrics.split("\n")) {
      if (line.startsWith(`oci_pull_through_${name}{`) && wanted.test(line)) total += Number(line.slice(line.lastIndexOf(" ") + 1)) || 0;
    }
    return total;
  };
  return { sent: sum("http_response_bytes_total", /route="(blob|manifest)"/), received: sum("upstream_received_bytes_total", /./) };
}

function tile(name, value, detail, bar) {
  return element("div", { class: "tile" },
    element("span", { class: "name", textContent: name }),
    element("span", { class: "value", textContent: value }),
    bar,
    detail && element("span", { class: "detail", textContent: detail }));
}

function bar(label, value, max) {
  return element("progress", { "aria-label": label, max, value: Math.min(value, max), class: value / max > 0.9 ? "full" : "" });
}

function showTiles(target, { store, registries, fills, traffic }) {
  const all = Object.values(registries);
  const hits = all.reduce((sum, registry) => sum + registry.Hits, 0);
  const requests = all.reduce((sum, registry) => sum + registry.Hits + registry.Misses, 0);
  const saved = Math.max(0, traffic.sent - traffic.received);
  const evicted = Object.values(store?.evictions ?? {}).reduce((sum, value) => sum + value, 0);
  show(target,
    tile("Hit ratio", percent(hits, requests), `${count(hits)} of ${counted(requests, "request")}`),
    tile("Upstream bytes saved", bytes(saved), `${bytes(traffic.sent)} to clients, ${bytes(traffic.received)} from registries`),
    store && tile("Stored", bytes(store.bytes),
      store.bytesMax === null ? `${counted(store.objects, "object")}, ${bytes(store.freeBytes)} free` : `${percent(store.bytes, store.bytesMax)} of ${bytes(store.bytesMax)}`,
      store.bytesMax === null ? null : bar("Stored bytes of the bound", store.bytes, store.bytesMax)),
    fills && tile("Downloads", count(fills.length), `for ${counted(fills.reduce((sum, fill) => sum + fill.followers, 0), "client")}`),
    store && tile("Evictions", count(evicted), store.damagedObjects ? `${counted(store.damagedObjects, "damaged object")} found` : "no damage found"));
}

function showFills(target, fills) {
  if (fills.length === 0) return show(target, element("p", { class: "empty", textContent: "No download runs. A pull of new content appears here." }));
  show(target, element("ul", { class: "list" }, fills.map((fill) => element("li", {},
    element("div", { class: "line" },
      element("strong", { textContent: `${fill.registry}/${fill.repository}` }),
      element("span", { class: "numbers", textContent: fill.bytesTotal === null ? bytes(fill.bytes) : `${bytes(fill.bytes)} of ${bytes(fill.bytesTotal)} · ${percent(fill.bytes, fill.bytesTotal)}` })),
    element("progress", { "aria-label": `Download of ${fill.repository}`, ...(fill.bytesTotal ? { max: fill.bytesTotal, value: fill.bytes } : {}) }),
    element("div", { class: "line numbers" },
      element("code", { textContent: fill.digest.slice(0, 19) }),
      element("span", { textContent: `${counted(fill.followers, "client")} · ${fill.upstream ?? fill.source} · ${span(fill.ageSeconds)}` }))))));
}

const STATES = { available: "good", failing: "warn", limited: "warn", unavailable: "bad" };

function showRegistries(target, registries) {
  const names = Object.keys(registries).sort();
  if (names.length === 0) return show(target, element("p", { class: "empty", textContent: "No registry has got a request yet." }));
  const head = ["Registry", "State", "Hit ratio", "Content", "Budget"];
  show(target, element("div", { class: "table" }, element("table", {},
    element("thead", {}, element("tr", {}, head.map((name) => element("th", { scope: "col", textContent: name })))),
    element("tbody", {}, names.map((name) => registryRow(name, registries[name]))))));
}

function registryRow(name, registry) {
  const requests = registry.Hits + registry.Misses;
  const state = registry.State ?? "available";
  return element("tr", {},
    element("th", { scope: "row", textContent: name }),
    element("td", { "data-name": "State" },
      element("span", { class: `badge ${STATES[state] ?? ""}`, textContent: state }),
      registry.StateSeconds !== null && registry.StateSeconds !== undefined && element("span", { class: "numbers", textContent: ` for ${span(registry.StateSeconds)}` }),
      state !== "available" && registry.LastError && element("div", { class: "numbers", textContent: registry.LastError })),
    element("td", { "data-name": "Hit ratio", textContent: requests ? `${percent(registry.Hits, requests)} of ${count(requests)}` : "–" }),
    element("td", { "data-name": "Content", textContent: `${bytes(registry.CurrentSize)} in ${counted(registry.Items, "object")}` }),
    element("td", { "data-name": "Budget" }, budget(name, registry.RateLimit)));
}

function budget(name, limit) {
  if (!limit || limit.Limit === null) return "no limit reported";
  const remaining = limit.Remaining ?? 0;
  const reset = limit.ResetSeconds ?? null;
  return element("div", { class: "budget" },
    element("span", { class: "numbers", textContent: `${count(remaining)} of ${count(limit.Limit)} left${reset === null ? "" : `, reset in ${span(reset)}`}` }),
    element("progress", { "aria-label": `Budget of ${name}`, max: limit.Limit, value: Math.min(remaining, limit.Limit), class: remaining / limit.Limit < 0.1 ? "full" : "" }));
}

function showRecent(target, page) {
  const images = page?.images ?? [];
  target.hidden = images.length === 0;
  if (target.contains(document.activeElement)) return;
  show(target,
    element("h2", { id: "recent-title", textContent: "Used last" }),
    element("ul", { class: "list" }, images.map((image) => {
      const reference = image.tag === null ? `${image.repository}@${image.digest}` : `${image.repository}:${image.tag}`;
      return element("li", {}, element("div", { class: "line" },
        element("a", { href: `#/image/${encodeURIComponent(reference)}`, textContent: reference }),
        element("span", { class: "numbers", textContent: `${bytes(image.size)} · ${ago(image.used)}` })));
    })));
}
