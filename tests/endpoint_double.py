"""A server on this machine that answers as an OpenAI-compatible one does."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    asked: list = []  # noqa: RUF012
    failures = 0
    ended = "stop"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if type(self).failures:
            type(self).failures -= 1
            self.reply(503, {"error": {"message": "busy"}})
            return
        cut = body["max_tokens"] < 5
        choice = {
            "index": 0,
            "logprobs": None,
            "text": f"{body['prompt']}!{body['seed']}",
            "finish_reason": "length" if cut else self.ended,
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        made = {"id": "1", "object": "text_completion", "created": 0, "model": body["model"]}
        self.reply(200, {**made, "choices": [choice], "usage": usage})

    def reply(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    """The server's address while it runs."""
    Server.asked, Server.failures = [], 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
