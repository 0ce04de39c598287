// Drives the Inspector's web UI at a URL, and takes the pictures of the README into a folder.
import { chromium } from "playwright-core";

const [url, folder, executablePath] = process.argv.slice(2);
// No sandbox of Chromium's, for in a container there is often none; the page is our own.
const args = [
  ..."--no-sandbox --disable-gpu --disable-quic --no-first-run".split(" "),
  ..."--disable-background-networking --disable-component-update --disable-sync".split(" "),
];
const browser = await chromium.launch({ executablePath, args });
try {
  const page = await browser.newPage({
    viewport: { width: 1280, height: 720 },
    reducedMotion: "reduce",
  });
  await open(page);
  await choose(page, "create_call");
  await take(page, "tools");

  await write(page, {
    to: "+15005550205",
    from: "+15005550006",
    twiml: "<Response><Say>Your table is ready.</Say></Response>",
  });
  await execute(page);
  const question = page.getByRole("dialog");
  const yes = question.getByRole("checkbox", { name: "Yes, place this call" });
  await yes.check();
  await take(page, "confirmation");
  await question.getByRole("button", { name: "Submit" }).click();
  await page.getByText("outbound-api").first().waitFor();

  await choose(page, "list_calls");
  await write(page, { limit: 3 });
  await execute(page);
  await page.getByText("newest first").first().waitFor();
  await page.getByText("Tool progress").waitFor({ state: "detached" });
  await take(page, "result");
} finally {
  await browser.close();
}

async function open(page) {
  await page.goto(url);
  await page.getByRole("switch", { name: 'Connect or disconnect "calls"' }).click({ force: true });
  await page.getByText("Connected", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Close monitoring sidebar" }).click();
  await page.getByRole("banner").getByText("Tools", { exact: true }).click();
}

async function choose(page, tool) {
  await page.getByRole("button", { name: tool }).click();
}

// The form would send every default with the rest.
async function write(page, values) {
  await page.getByRole("switch", { name: "Edit as JSON" }).check();
  await page.getByRole("textbox", { name: "Arguments JSON" }).focus();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(JSON.stringify(values, null, 2));
}

async function execute(page) {
  await page.getByRole("button", { name: "Execute Tool" }).click();
}

async function take(page, name) {
  await page.evaluate(() => window.scrollTo(0, 0));
  await page.screenshot({ path: `${folder}/${name}.png`, animations: "disabled", caret: "hide" });
}
