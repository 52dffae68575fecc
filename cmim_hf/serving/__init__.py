# SPDX-License-Identifier: Apache-2.0
"""The HTTP API and the web page, `cmim serve` (extra `serve`)."""
