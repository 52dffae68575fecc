# SPDX-License-Identifier: Apache-2.0
"""What was measured, and how: `quality` and `speed`; `results` holds tables, pictures and figures.

Each is run from the root of the repository: `python -m examples.benchmarks.quality.report`.
"""
