"""Compares Drisse's JSON code with two fast libraries on the same text (`bench/json`). Prints the table and saves it in
docs/performance.md.

    python3 bench/json_speed.py target/release
"""

import subprocess
import sys

from report import Report

ABOUT = "`bench/json` parses a V2 request with 150,528 floats into a tensor and prints a response from one; the libraries parse into and print from plain structs."


def main(folder):
    say = Report("JSON beside simd-json and sonic-rs", ABOUT)
    say(subprocess.run([f"{folder}/json-bench"], capture_output=True, text=True, check=True).stdout.strip())
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
