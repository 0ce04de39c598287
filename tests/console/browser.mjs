// Drives the console in Chromium: node browser.mjs MODULES CHROMIUM URL LINK WHAT [ARGUMENT]…
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, executablePath, url, link, what, ...rest] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");

// No sandbox of Chromium's, for in a container there is often none; the page is our own.
const args = [
  ..."--no-sandbox --disable-gpu --disable-quic --no-first-run".split(" "),
  ..."--disable-background-networking --disable-component-update --disable-sync".split(" "),
];
const browser = await chromium.launch({ executablePath, args });
const failures = [];

async function enter(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && failures.push(message.text()));
  page.on("pageerror", (error) => failures.push(String(error)));
  await page.goto(link);
  await page.getByRole("button", { name: "Enter the console" }).press("Enter");
  await page.waitForURL(`${url}/`);
  return page;
}

// One session is enough: its cookie goes from one context to the next.
async function examine() {
  const axe = require.resolve("axe-core/axe.min.js");
  const storageState = await (await enter({})).context().storageState();
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [360, 1440]) {
      const viewport = { width, height: 900 };
      const context = await browser.newContext({ colorScheme, viewport, storageState, bypassCSP: true });
      const page = await context.newPage();
      for (const path of rest) {
        await page.goto(url + path);
        await page.addScriptTag({ path: axe });
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        for (const each of violations) {
          failures.push(`${path} ${colorScheme} ${width}: ${each.id}: ${each.nodes[0].html}`);
        }
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) failures.push(`${path} ${width}: ${wide} wide`);
      }
      await context.close();
    }
  }
}

// Tells on stdout once the page is open; what comes then is decided by keys alone.
async function decide() {
  const page = await enter({ viewport: { width: 1280, height: 720 } });
  await page.getByText("Nothing waits").waitFor();
  console.log("open");
  const card = page.locator(".card");
  await card.waitFor();
  if (!(await page.title()).startsWith("(1)")) failures.push(`title ${await page.title()}`);
  await card.focus();
  await page.keyboard.press("a");
  await page.keyboard.press("Enter");
  await page.getByText("Approved by").waitFor();
}

try {
  await { examine, decide }[what]();
} finally {
  await browser.close();
}
if (failures.length) {
  console.error(failures.join("\n"));
  process.exitCode = 1;
}
