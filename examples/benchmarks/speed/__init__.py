# SPDX-License-Identifier: Apache-2.0
"""How fast: beside peers, as a share of what the machine multiplies, and as sizes grow."""
