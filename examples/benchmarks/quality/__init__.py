# SPDX-License-Identifier: Apache-2.0
"""How good: embeddings, molecules, parts of the objective; the pages made from the figures."""
