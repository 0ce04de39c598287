// The TypeScript SDK, 1.x and 2.x. Run with --eval in the environment of either, so that its
// packages are found. Requests are lines of JSON, and so are answers.

import { createInterface } from "node:readline";

const plan = JSON.parse(process.argv.at(-1));
const modern = plan.generation === 2;

const PACKAGES = modern
  ? {
      client: "@modelcontextprotocol/client",
      http: "@modelcontextprotocol/client",
      stdio: "@modelcontextprotocol/client/stdio",
      validator: "@modelcontextprotocol/client/validators/ajv",
    }
  : {
      client: "@modelcontextprotocol/sdk/client/index.js",
      http: "@modelcontextprotocol/sdk/client/streamableHttp.js",
      stdio: "@modelcontextprotocol/sdk/client/stdio.js",
      validator: "@modelcontextprotocol/sdk/validation/ajv",
    };

const { Client } = await import(PACKAGES.client);
const { StreamableHTTPClientTransport } = await import(PACKAGES.http);
const { StdioClientTransport } = await import(PACKAGES.stdio);
const { AjvJsonSchemaValidator } = await import(PACKAGES.validator);

const say = (content) => process.stdout.write(`${JSON.stringify(content)}\n`);

let asked = [];
let protocol = null;

async function connected() {
  const capabilities = plan.user.length ? { elicitation: { form: {} } } : {};
  const options = modern ? { capabilities, versionNegotiation: { mode: plan.era } } : { capabilities };
  const client = new Client({ name: "typescript-driver", version: "1" }, options);
  if (plan.user.length) {
    const schema = modern
      ? "elicitation/create"
      : (await import("@modelcontextprotocol/sdk/types.js")).ElicitRequestSchema;
    client.setRequestHandler(schema, async ({ params }) => {
      asked.push(params.message);
      const reply = plan.user.length > 1 ? plan.user.shift() : plan.user[0];
      if (reply === "accept") return { action: "accept", content: { approve: true } };
      return { action: "decline" };
    });
  }
  const [command, ...args] = plan.command;
  const transport = plan.url
    ? new StreamableHTTPClientTransport(new URL(plan.url))
    : new StdioClientTransport({ command, args });
  transport.setProtocolVersion ??= (version) => (protocol = version);
  await client.connect(transport);
  return client;
}

const client = await connected();
const { tools } = await client.listTools();
const provider = new AjvJsonSchemaValidator();
const validators = new Map(tools.map((t) => [t.name, provider.getValidator(t.outputSchema)]));

say({
  protocol: client.getNegotiatedProtocolVersion?.() ?? protocol,
  tools: Object.fromEntries(
    tools.map((t) => [t.name, { description: t.description, parameters: t.inputSchema }]),
  ),
});

for await (const line of createInterface({ input: process.stdin })) {
  const { tool, arguments: given } = JSON.parse(line);
  asked = [];
  const result = await client.callTool({ name: tool, arguments: given });
  const structured = result.structuredContent ?? null;
  say({
    seen: result.content.map((block) => block.text).join("\n"),
    failed: result.isError ?? false,
    structured,
    valid: validators.get(tool)(structured).valid,
    asked,
  });
}

await client.close();
