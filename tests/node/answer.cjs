// Answers inputs with a graph in onnxruntime-web's WebAssembly build, as a browser would.
// Standard input: {graph, inputs: [{name: values}]}; standard output: one object of plain lists an input.
const fs = require("fs");
const ort = require("onnxruntime-web");

ort.env.wasm.numThreads = 1;

const ids = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
const number = (value) => new ort.Tensor("float32", [value], []);
const feed = (value) => (Array.isArray(value) ? ids(value) : number(value));
const mapped = (object, change) =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));

async function main() {
  const { graph, inputs } = JSON.parse(fs.readFileSync(0, "utf-8"));
  const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(graph)), {
    executionProviders: ["wasm"],
    logSeverityLevel: 3,
  });
  const answers = [];
  for (const input of inputs) {
    const output = await session.run(mapped(input, feed));
    answers.push(mapped(output, (tensor) => Array.from(tensor.data, Number)));
  }
  process.stdout.write(JSON.stringify(answers));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
