"""Starts a write-blocking mirror of the node `data` to the node `copy` in a qemu-storage-daemon and waits until it is
in sync. Usage: qmp.py SOCKET"""

import json
import socket
import sys


def main(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(120)
    connection.connect(path)
    lines = connection.makefile("rw")

    def answer_to(command, **arguments):
        lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        lines.flush()
        return next(message for message in incoming() if "return" in message or "error" in message)

    def incoming():
        for line in lines:
            yield json.loads(line)

    next(incoming())  # The greeting.
    answer_to("qmp_capabilities")
    mirror = {"job-id": "mirror", "device": "data", "target": "copy", "sync": "full", "copy-mode": "write-blocking"}
    answer = answer_to("blockdev-mirror", **mirror)
    if "error" in answer:
        sys.exit(answer["error"]["desc"])
    for message in incoming():
        if message.get("event") == "BLOCK_JOB_READY":
            return
    sys.exit("the mirror ended before it was in sync")


main(sys.argv[1])
