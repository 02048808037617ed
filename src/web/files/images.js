// The list of images, and an image with its layers. A pin or a removal shows its plan first.
import { addCopyButton, announce, element, show } from "./dom.js";
import { ago, bytes, count, counted, shortDigest } from "./format.js";
import { get, imagePath, permitted, send } from "./api.js";

const PAGE = 50;
const TYPING_MS = 250;

const referenceOf = (image) => (image.tag === null ? `${image.repository}@${image.digest}` : `${image.repository}:${image.tag}`);
const linkOf = (reference) => `#/image/${encodeURIComponent(reference)}`;

/** Returns an expression that matches the text itself. A comma would separate expressions. */
const literal = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&").replaceAll(",", "\\x2c").replaceAll(" ", "\\x20");

/** Returns an expression for references that contain a text. A reference with a digest contains `@`. */
function patternOf(text, isTagged) {
  return isTagged ? `^[^@]*${literal(text)}[^@]*$` : literal(text);
}

export function images(main, { fail }) {
  const search = element("input", { class: "text", id: "search", type: "search", autocomplete: "off", spellcheck: false, placeholder: "alpine, quay.io/, :1.27" });
  const kind = options("kind", [["tagged", "tags"], ["", "tags and digests"], ["pinned=true", "pinned"], ["complete=false", "incomplete"]]);
  const sort = options("sort", [["name", "name"], ["-used", "last use"], ["-size", "size"], ["-created", "time of storage"]]);
  const body = element("tbody");
  const table = element("div", { class: "table images" }, element("table", {},
    element("thead", {}, element("tr", {}, ["Image", "Platforms", "Size", "Last use", "State"].map((name) => element("th", { scope: "col", textContent: name, class: name === "Size" ? "number" : "" })))), body));
  const empty = element("p", { class: "empty", hidden: true });
  const more = element("button", { type: "button", class: "more", hidden: true, textContent: "Show more" });
  show(main,
    element("h1", { textContent: "Images" }),
    element("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } },
      element("div", { class: "grow" }, element("label", { for: "search", textContent: "Search" }), search),
      element("div", {}, element("label", { for: "kind", textContent: "Show" }), kind),
      element("div", {}, element("label", { for: "sort", textContent: "Order" }), sort)),
    table, empty, more);
  let cursor = null;
  let generation = 0;

  async function load(isFirst) {
    generation += 1;
    const own = generation;
    more.disabled = true;
    const query = new URLSearchParams({ limit: PAGE, sort: sort.value });
    const pattern = patternOf(search.value.trim(), kind.value === "tagged");
    if (pattern) query.set("pattern", pattern);
    if (kind.value.includes("=")) query.set(...kind.value.split("="));
    if (isFirst) {
      cursor = null;
      more.hidden = true;
    }
    try {
      let page;
      do {
        if (cursor) query.set("cursor", cursor);
        page = await get(`/api/v1/images?${query}`);
        // A later search has made this answer useless.
        if (own !== generation) return;
        cursor = page.next ?? null;
        // A page of a large store may end without an image.
      } while (page.images.length === 0 && cursor !== null);
      if (isFirst) body.replaceChildren();
      body.append(...page.images.map(row));
      more.hidden = cursor === null;
      table.hidden = body.children.length === 0;
      empty.hidden = !table.hidden;
      empty.textContent = search.value || kind.value !== "tagged" ? "No image matches." : "The store has no image yet.";
      announce(counted(body.children.length, "image"));
    } catch (error) {
      if (own === generation) fail(error);
    } finally {
      if (own === generation) more.disabled = false;
    }
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => load(true), TYPING_MS);
  });
  kind.addEventListener("change", () => load(true));
  sort.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
  return null;
}

function options(id, list) {
  return element("select", { id }, list.map(([value, label]) => element("option", { value, textContent: label })));
}

function stateOf(image) {
  return element("span", { class: "badges" },
    image.pinned && element("span", { class: "badge accent", textContent: "pinned" }),
    element("span", { class: `badge ${image.complete ? "good" : "warn"}`, textContent: image.complete ? "complete" : "incomplete" }));
}

function row(image) {
  const reference = referenceOf(image);
  const platforms = image.platforms.slice(0, 4);
  const hidden = image.platforms.length - platforms.length;
  return element("tr", {},
    element("th", { scope: "row" }, element("a", { href: linkOf(reference), textContent: image.tag === null ? `${image.repository}@${shortDigest(image.digest)}` : reference })),
    element("td", { "data-name": "Platforms", textContent: platforms.join(", ") + (hidden > 0 ? ` and ${hidden} more` : "") }),
    element("td", { class: "number", "data-name": "Size", textContent: bytes(image.size) }),
    element("td", { "data-name": "Last use", textContent: ago(image.used) }),
    element("td", {}, stateOf(image)));
}

export function image(main, { fail, reference }) {
  const content = element("div");
  show(main, element("a", { class: "crumb", href: "#/images", textContent: "All images" }), content);

  async function load() {
    try {
      const [{ images: found }, pins, explanation, plan] = await Promise.all([
        get(imagePath(reference)),
        permitted(get("/api/v1/pins")),
        permitted(get(`/api/v1/explain?ref=${encodeURIComponent(reference)}`)),
        permitted(send("DELETE", `${imagePath(reference)}?dry_run=true`)),
      ]);
      showImage(content, { reference, image: found[0], pins: pins?.pins ?? [], explanation, plan, fail, load });
    } catch (error) {
      show(content, element("h1", { textContent: reference }));
      fail(error);
    }
  }
  load();
  return null;
}

function fact(name, value, wide) {
  return element("div", { class: wide ? "wide" : "" }, element("dt", { textContent: name }), element("dd", {}, value));
}

function showImage(target, { reference, image, pins, explanation, plan, fail, load }) {
  const isOwnPin = pins.includes(reference);
  const command = element("div", { class: "code" }, element("pre", { tabIndex: 0 }, element("code", { textContent: reference })));
  addCopyButton(command, "the reference");
  const rank = explanation?.eviction;
  show(target,
    element("div", { class: "heading" },
      element("div", {}, element("h1", { textContent: reference }), stateOf(image)),
      element("div", { class: "actions" },
        element("button", { type: "button", id: "pin", textContent: isOwnPin ? "Unpin" : "Pin", on: { click: () => changePin({ reference, image, isOwnPin, load, fail }) } }),
        element("button", { type: "button", id: "remove", class: "danger", textContent: "Remove", on: { click: () => remove({ reference, fail }) } }))),
    element("section", { "aria-label": "Facts" }, element("div", { class: "card" }, element("dl", { class: "facts" },
      fact("Size", bytes(image.size)),
      plan && fact("Of this image alone", bytes(Math.min(plan.bytes, image.size))),
      plan && fact("Shared with other images", bytes(Math.max(0, image.size - plan.bytes))),
      fact("Last use", ago(image.used)),
      fact("Stored", ago(image.created)),
      rank && fact("Eviction", evictionText(rank)),
      explanation && fact("Next pull", explanation.pull),
      fact("Platforms", image.platforms.join(", ") || "not stated"),
      fact("Digest", element("code", { textContent: image.digest }), true)), command,
      (explanation?.findings ?? []).length > 0 && element("ul", { class: "findings" }, explanation.findings.map((finding) => element("li", { textContent: String(finding.text ?? finding.cause ?? "") }))))),
    element("section", { "aria-labelledby": "layers-title" },
      element("h2", { id: "layers-title", textContent: "Manifests and layers" }),
      element("div", { class: "table" }, image.manifests.map((manifest, at) => manifestPart(manifest, at === image.manifests.findIndex((one) => one.blobs.length > 0))))));
}

function evictionText({ bytesBefore, bound }) {
  const scope = bound === "registry" ? "of its registry " : "";
  return bytesBefore === 0 ? `next ${scope}`.trim() : `after ${bytes(bytesBefore)} of other content ${scope}`.trim();
}

function manifestPart(manifest, isOpen) {
  const title = `${manifest.platform ?? (manifest.blobs.length > 0 ? "manifest" : "index")} · ${shortDigest(manifest.digest)}`;
  const note = manifest.blobs.length > 0 ? ` · ${counted(manifest.blobs.length, "object")}, ${bytes(manifest.blobs.reduce((sum, blob) => sum + blob.size, 0))}` : "";
  if (manifest.blobs.length === 0) return element("p", { class: "manifest" }, title, " ", !manifest.stored && element("span", { class: "badge warn", textContent: "not stored" }));
  return element("details", { open: isOpen },
    element("summary", {}, title, element("span", { class: "numbers", textContent: note }), " ", !manifest.stored && element("span", { class: "badge warn", textContent: "not stored" })),
    element("table", {},
      element("thead", {}, element("tr", {}, ["Config and layers", "Size", "State"].map((name) => element("th", { scope: "col", textContent: name, class: name === "Size" ? "number" : "" })))),
      element("tbody", {}, manifest.blobs.map((blob) => element("tr", {},
        element("th", { scope: "row" }, element("code", { textContent: shortDigest(blob.digest) })),
        element("td", { class: "number", "data-name": "Size", textContent: bytes(blob.size) }),
        element("td", {}, element("span", { class: `badge ${blob.stored ? "good" : "warn"}`, textContent: blob.stored ? "stored" : "missing" })))))));
}

/** Shows a plan in a dialog. Returns whether the user has confirmed the plan. */
function confirmed({ title, content, action, isDangerous }) {
  return new Promise((resolve) => {
    const cancel = element("button", { type: "button", textContent: "Cancel", on: { click: () => dialog.close("") } });
    const apply = element("button", { type: "button", class: isDangerous ? "danger" : "primary", textContent: action, on: { click: () => dialog.close("yes") } });
    const dialog = element("dialog", { "aria-labelledby": "plan-title" }, element("h2", { id: "plan-title", textContent: title }), content, element("div", { class: "actions" }, cancel, apply));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
    cancel.focus();
  });
}

async function changePin({ reference, image, isOwnPin, load, fail }) {
  const content = isOwnPin
    ? [element("p", { textContent: "The cache may then evict the image, and rules of prune may remove it." })]
    : [element("p", { textContent: "A pinned image stays in the store. Evictions, rules of prune and removals skip the image." }),
      element("dl", { class: "facts" }, fact("Kept on the disk", bytes(image.size)), fact("Missing parts", count(image.missingBlobs + image.missingManifests)))];
  const title = isOwnPin ? `Unpin ${reference}` : `Pin ${reference}`;
  if (!(await confirmed({ title, content, action: isOwnPin ? "Unpin" : "Pin" }))) return;
  try {
    await send(isOwnPin ? "DELETE" : "PUT", `/api/v1/pins/${encodeURIComponent(reference)}`);
    await load();
    announce(isOwnPin ? "Unpinned" : "Pinned");
    document.getElementById("pin")?.focus();
  } catch (error) {
    fail(error);
  }
}

async function remove({ reference, fail }) {
  try {
    const plan = await send("DELETE", `${imagePath(reference)}?dry_run=true`);
    const listed = plan.images.slice(0, 10);
    const content = [
      element("dl", { class: "facts" }, fact("Images", count(plan.images.length)), fact("Objects", count(plan.objects)), fact("Freed on the disk", bytes(plan.bytes))),
      element("ul", { class: "findings" }, listed.map((name) => element("li", { textContent: name }))),
      element("p", { textContent: "The next pull downloads the image again." })];
    if (!(await confirmed({ title: `Remove ${reference}`, content, action: "Remove", isDangerous: true }))) return;
    const done = await send("DELETE", imagePath(reference));
    location.hash = "#/images";
    announce(`Removed, ${bytes(done.bytes)} freed`);
  } catch (error) {
    fail(error);
  }
}
