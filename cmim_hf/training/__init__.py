# SPDX-License-Identifier: Apache-2.0
"""The objectives, the trainer and what a run needs."""
