// The page of the admin listener: its views, the token, and the state of the connection.
import { addCopyButton, announce, element, show } from "./dom.js";
import { ApiError, get, hasToken, onReachable, setToken } from "./api.js";
import { overview } from "./overview.js";
import { image, images } from "./images.js";
import { jobs } from "./jobs.js";

const POLL_MS = 1000;
const main = document.getElementById("main");
const banner = document.getElementById("banner");
const access = document.getElementById("access");
/** Refreshes the view each second. Null for a view that loads once. */
let refresh = null;
let view = 0;
let isAway = false;
/** Whether a request of the view has failed for lack of an answer. */
let isStale = false;

/** Shows an error, or the form for a token. */
function fail(error) {
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 0) {
    isStale = true;
    return;
  }
  if (error.needsToken) return showSignIn(hasToken() ? error.message : "");
  let box = document.getElementById("failure");
  if (!box) {
    box = element("p", { id: "failure", class: "error", role: "alert" });
    main.prepend(box);
  }
  box.textContent = error.message;
}

function showSignIn(problem) {
  view += 1;
  refresh = null;
  const token = element("input", { class: "text", id: "token", type: "password", autocomplete: "off", spellcheck: false, "aria-describedby": "token-problem" });
  const message = element("p", { class: "error", id: "token-problem", role: "alert", hidden: !problem, textContent: problem });
  const command = element("div", { class: "code" }, element("pre", { tabIndex: 0 }, element("code", {
    textContent: "TOKEN=$(openssl rand -hex 32)\necho \"me operate $(printf %s \"$TOKEN\" | sha256sum | cut -d' ' -f1)\" >>tokens\necho \"$TOKEN\"" })));
  addCopyButton(command, "the command");
  async function submit(event) {
    event.preventDefault();
    setToken(token.value);
    try {
      await get("/api/v1/jobs");
      access.textContent = "Sign out";
      route();
      announce("Signed in");
    } catch (error) {
      setToken("");
      message.hidden = false;
      message.textContent = error.message;
      token.focus();
    }
  }
  show(main, element("div", { class: "card signin" },
    element("h1", { textContent: "Sign in" }),
    element("p", { class: "lead", textContent: "The page shows the state of the cache to clients with a token. The token stays in the memory of this page." }),
    element("form", { on: { submit } },
      element("label", { class: "field", for: "token", textContent: "Token" }),
      element("div", { class: "row" }, token, element("button", { type: "submit", class: "primary", textContent: "Sign in" })),
      message),
    element("p", { class: "field", textContent: "A new token, in the file that ADMIN_TOKENS_FILE names" }),
    command));
  token.focus();
}

/** Returns the view of the fragment. */
function viewOf(hash) {
  const path = hash.replace(/^#/, "") || "/";
  const options = { fail, signIn: () => showSignIn("") };
  if (path === "/images") return ["Images", () => images(main, options)];
  if (path === "/jobs") return ["Jobs", () => jobs(main, options)];
  if (path.startsWith("/image/")) {
    let reference = path.slice("/image/".length);
    try {
      reference = decodeURIComponent(reference);
    } catch {
      // A fragment with a broken escape is shown as it is.
    }
    return [reference, () => image(main, { ...options, reference })];
  }
  return ["Overview", () => overview(main, options)];
}

function route() {
  view += 1;
  const [title, open] = viewOf(location.hash);
  document.title = `${title} · oci-pull-through`;
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = link.getAttribute("href") === (location.hash.startsWith("#/image") ? "#/images" : location.hash || "#/");
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  isStale = false;
  refresh = open();
  tick(view);
}

/** Refreshes the current view once. An answer for an earlier view is useless. */
async function tick(own) {
  try {
    // A view that loads once learns from the health check whether the cache answers.
    await (refresh ? refresh() : get("/health"));
  } catch (error) {
    if (own === view) fail(error);
  }
}

async function poll() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (document.hidden) continue;
    await tick(view);
  }
}

onReachable((reachable) => {
  const wasAway = isAway;
  isAway = !reachable;
  banner.hidden = reachable;
  if (!reachable) banner.textContent = "The cache does not answer. This page connects again by itself.";
  else if (wasAway) {
    announce("The cache answers again");
    if (isStale && !document.querySelector("dialog[open]") && !document.getElementById("token")) route();
  }
});
access.addEventListener("click", () => {
  if (hasToken()) {
    setToken("");
    access.textContent = "Sign in";
  }
  showSignIn("");
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => {
  route();
  main.focus();
  scrollTo(0, 0);
});
route();
poll();
