// The two steps of the benchmark as a service of Restate's SDK: each calls a service over HTTP.
// Arguments: the folder that the SDK is installed in, the port to listen on, and two URLs.
const { createRequire } = require("node:module");

// The SDK needs it, and Node.js has it from version 22.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
  return { promise, resolve, reject };
};

const [, , folder, port, left, right] = process.argv;
const restate = createRequire(`${folder}/`)("@restatedev/restate-sdk");

const call = async (url) => {
  const response = await fetch(url, { method: "POST" });
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
};

const saga = restate.service({
  name: "saga",
  handlers: {
    run: async (ctx) => {
      await ctx.run("reserve", () => call(left));
      await ctx.run("charge", () => call(right));
    },
  },
});

restate.serve({ port: Number(port), services: [saga] });
