"""Writes a file of stripes of 4 MiB noise and 4 MiB text, the same at every call. bench/mixed.py FILE STATE MIB; state 2 is state 1
with 64 KiB rewritten in a place of each 32 MiB, 4,097 bytes put in at a quarter of it and a 64th more at the end."""

import hashlib
import os
import random
import subprocess
import sys

MIB = 1 << 20
SIZE_MIB = int(sys.argv[3])


def text(stripe, words):
    """4 MiB of lines that a compressor likes."""
    line = " ".join(random.Random(stripe).choices(words, k=60_000)).encode()
    parts, size, number = [], 0, 0
    while size < 4 * MIB:
        start = number * 131 % 200_000
        part = b"%08d " % (stripe * 100_000 + number) + line[start : start + 2_000] + b"\n"
        parts.append(part)
        size += len(part)
        number += 1
    return b"".join(parts)[: 4 * MIB]


def write_first(path):
    key = hashlib.sha256(b"anshin-corpus").hexdigest()
    noise = subprocess.Popen(
        ["openssl", "enc", "-aes-256-ctr", "-K", key, "-iv", "0" * 32, "-in", "/dev/zero"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    source = random.Random(20240229)
    words = ["%x" % source.getrandbits(28) for _ in range(4096)]
    words += ["the", "of", "and", "block", "sector", "replica", "write", "journal"] * 256
    with open(path, "wb", buffering=4 * MIB) as out:
        for stripe in range(SIZE_MIB // 8):
            out.write(noise.stdout.read(4 * MIB))
            out.write(text(stripe, words))
    noise.kill()


def change(path):
    source = random.Random(7)
    with open(path, "r+b") as file:
        for _ in range(SIZE_MIB // 32):
            file.seek(source.randrange(0, SIZE_MIB * MIB - 65_536) & ~4_095)
            file.write(source.randbytes(65_536))
    with open(path, "rb") as old, open(path + ".new", "wb") as new:
        for _ in range(SIZE_MIB // 16):
            new.write(old.read(4 * MIB))
        new.write(source.randbytes(4_097))
        while block := old.read(4 * MIB):
            new.write(block)
        new.write(source.randbytes(SIZE_MIB * MIB // 64))
    os.rename(path + ".new", path)


write_first(sys.argv[1])
if sys.argv[2] == "2":
    change(sys.argv[1])
