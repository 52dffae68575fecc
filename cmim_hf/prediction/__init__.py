# SPDX-License-Identifier: Apache-2.0
"""From a table of measured molecules to predictions for others."""
