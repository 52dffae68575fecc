# SPDX-License-Identifier: Apache-2.0
"""Scripts to copy; a package, so that the benchmarks run as `python -m examples.benchmarks.…`."""
