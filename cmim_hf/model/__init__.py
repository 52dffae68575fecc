# SPDX-License-Identifier: Apache-2.0
"""The Hub closure: configuration and model, flat, as they are copied beside saved weights."""
