# SPDX-License-Identifier: Apache-2.0
"""Searching codes for molecules that score well."""
