// TLS with HTTP/2 (or with 1.1 alone) in front of a plain server, as a hosted project has it.

import { createSecureServer } from "node:http2";
import { createServer } from "node:https";
import { request } from "node:http";
import { readFileSync } from "node:fs";

const { TLS_TO, TLS_CERTIFICATE, TLS_KEY, TLS_HTTP2 } = process.env;
const options = { cert: readFileSync(TLS_CERTIFICATE), key: readFileSync(TLS_KEY), allowHTTP1: true };

function forward(asked, answer) {
  const headers = Object.fromEntries(Object.entries(asked.headers).filter(([n]) => n[0] !== ":"));
  delete headers.connection;
  const onward = request(TLS_TO + asked.url, { method: asked.method, headers }, (said) => {
    answer.writeHead(said.statusCode, {
      "content-type": said.headers["content-type"] ?? "",
      "x-asked-with": asked.httpVersion,
    });
    said.pipe(answer);
  });
  asked.pipe(onward);
}

const server = TLS_HTTP2 ? createSecureServer(options, forward) : createServer(options, forward);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
