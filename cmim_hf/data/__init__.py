# SPDX-License-Identifier: Apache-2.0
"""Rows of SMILES in files, molecules as token ids, batches for training."""
