// Small functions for elements. Text enters the page through `textContent` only.

/** Returns a new element. `properties` are properties of the element, `children` nodes or texts. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (key.includes("-") || key === "role" || key === "for" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Replaces the content of an element. */
export function show(target, ...children) {
  target.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

/** Announces a text to screen readers. */
export function announce(text) {
  const status = document.getElementById("status");
  if (status) status.textContent = text;
}

/** Copies a text. Over plain http, browsers have no clipboard object, and a selection is copied. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Without the permission, the selection below may still work.
    }
  }
  const before = document.activeElement;
  const area = element("textarea", { value: text, readOnly: true, class: "visually-hidden", "aria-hidden": "true", tabIndex: -1 });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (before instanceof HTMLElement) before.focus();
  return copied;
}

/** Adds a button that copies the text of a block of code. */
export function addCopyButton(block, name) {
  const button = element("button", { type: "button", class: "copy", textContent: "Copy" });
  if (name) button.setAttribute("aria-label", `Copy ${name}`);
  button.addEventListener("click", async () => {
    const copied = await copyText(block.querySelector("code").textContent);
    button.textContent = copied ? "Copied" : "Failed";
    button.classList.toggle("done", copied);
    announce(copied ? "Copied" : "The browser refused to copy");
    setTimeout(() => {
      button.textContent = "Copy";
      button.classList.remove("done");
    }, 2000);
  });
  block.classList.add("copies");
  block.append(button);
}
