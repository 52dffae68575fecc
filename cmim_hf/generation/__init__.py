# SPDX-License-Identifier: Apache-2.0
"""Codes to molecules: decoding, sampling, interpolation, likelihood."""
