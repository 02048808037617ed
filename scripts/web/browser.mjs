// A browser for the checks, and pages that record their requests and violations of the policy.
import { chromium } from "playwright-core";

export const SIZES = { wide: { width: 1440, height: 900 }, tablet: { width: 768, height: 1024 }, small: { width: 320, height: 640 } };

export function openBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
}

/** Returns whether a URL is the page or one of its files, and no request for data. */
export const isFile = (url) => url.startsWith("http") && /^\/(ui\/|$)/.test(new URL(url).pathname);

/** Opens a page that records its requests, violations of its policy, errors and messages. */
export async function openPage(browser, { scheme = "light", size = SIZES.wide, javaScriptEnabled = true, permissions = [] } = {}) {
  const context = await browser.newContext({ viewport: size, colorScheme: scheme, reducedMotion: "reduce", javaScriptEnabled, permissions, locale: "en" });
  const page = await context.newPage();
  const record = { requests: [], violations: [], errors: [], bytes: 0 };
  page.on("request", (request) => record.requests.push(request.url()));
  page.on("pageerror", (error) => record.errors.push(String(error)));
  page.on("console", (message) => {
    if (/content security policy|trusted/i.test(message.text())) record.violations.push(message.text());
  });
  const session = await context.newCDPSession(page);
  await session.send("Network.enable");
  const files = new Set();
  session.on("Network.responseReceived", ({ requestId, response }) => {
    if (isFile(response.url)) files.add(requestId);
  });
  session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    if (files.has(requestId)) record.bytes += encodedDataLength;
  });
  return { page, record, close: () => context.close() };
}

/** Enters a token in the form of the admin page. */
export async function signIn(page, token) {
  if (!(await page.locator("#token").isVisible())) await page.click("#access");
  await page.fill("#token", token);
  await page.click("form button.primary");
  await page.waitForSelector("#token", { state: "detached" });
}
