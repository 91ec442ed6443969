"""Drisse's JSON beside two libraries made for speed, on the same text (`bench/json`): prints the table, and keeps it in
docs/performance.md.

    python3 bench/json_speed.py target/release
"""

import subprocess
import sys

from report import Report

ABOUT = "`bench/json`: a V2 request of 150,528 floats into a tensor, and an answer out of one; the libraries read into and print from plain structs."


def main(folder):
    say = Report("JSON beside simd-json and sonic-rs", ABOUT)
    say(subprocess.run([f"{folder}/json-bench"], capture_output=True, text=True, check=True).stdout.strip())
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
