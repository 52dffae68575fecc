# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in the form of other runtimes."""
