# SPDX-License-Identifier: Apache-2.0
"""Look the tested versions up among known vulnerabilities, with pip-audit.

    python tests/checks/audit.py constraints.txt
    python tests/checks/audit.py constraints.txt --vulnerability-service osv

What follows the file goes to pip-audit. Exit status 1 if a version is vulnerable, or pip-audit
fails. Where the service cannot be reached, or knows none of the packages (a mirror without
advisories), nothing was audited: that is said, with exit status 0.
"""

import json
import subprocess
import sys


def main(requirements: str, *options: str) -> int:
    """Audit the pinned versions of a file; the exit status."""
    result = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner",
         "off", "--timeout", "10", "--format", "json", "--requirement", requirements, *options],
        capture_output=True, text=True,
    )  # fmt: skip
    if not result.stdout.strip():
        reason = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if not reason.startswith("requests.exceptions."):
            print(f"pip-audit failed: {result.stderr}", file=sys.stderr)
            return 1
        print(f"NOT AUDITED: the advisories are out of reach: {reason.split(':')[0]}")
        return 0
    packages = json.loads(result.stdout)["dependencies"]
    audited = [package for package in packages if "vulns" in package]
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    if not audited:
        print(f"NOT AUDITED: the service knows none of the {len(packages)} packages")
    else:
        print(f"{len(audited)} of {len(packages)} packages audited, {len(vulnerable)} vulnerable")
    return int(bool(vulnerable))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
