// The builder of pull commands. The page is complete without this script; the script fills the commands
// while the user types, and adds buttons that copy.
import { addCopyButton } from "./dom.js";
import { parseImage, placesOf } from "./reference.js";

const EXAMPLE = "docker.io/library/alpine:3.20";
const { authority, noName, noPart } = document.body.dataset;
const input = document.getElementById("image");
const error = document.getElementById("error");

function fill(template, places) {
  return template.replace(/\{(reference|repository|original|tag)\}/g, (_, name) => places[name]);
}

function showError(text) {
  error.hidden = text === "";
  if (error.textContent !== text) error.textContent = text;
  input.setAttribute("aria-invalid", String(text !== ""));
}

function update() {
  const text = input.value.trim();
  const image = parseImage(text || EXAMPLE, authority);
  const places = image && placesOf(image, authority);
  showError(!image ? noName : !places ? noPart : "");
  if (!places) return;
  for (const code of document.querySelectorAll("#commands code")) {
    const template = image.digest === null ? code.dataset.tag : code.dataset.digest;
    code.closest(".command").hidden = template === "";
    code.textContent = fill(template, places);
  }
}

document.documentElement.classList.add("scripted");
for (const block of document.querySelectorAll(".code")) addCopyButton(block);
input.form.querySelector("[type=submit]").hidden = true;
input.form.addEventListener("submit", (event) => event.preventDefault());
input.addEventListener("input", update);
if (input.value) update();
