# SPDX-License-Identifier: Apache-2.0
"""The training objectives, by name. Tensors in, tensors out.

With nll_i the reconstruction −log p(x_i|z_i), log q_i and log p_i the log-densities of the code
under posterior and prior, and log k_i the contrastive log-probability, the loss of example i, a
molecule or an image, is

    ae        nll
    vae       nll + w·β·(log q − log p)
    mim       nll − w·½·(log q + log p)
    cmim      nll − w·½·(log q + log p) − c·log k
    cae       nll − c·log k
    cvae      nll + w·β·(log q − log p) − c·log k
    infonce   −c·log k, where −log k is the InfoNCE loss of two views; no decoder

and, as controls that tell what contrast over augmented views and what reconstruction gives, with
nll, log q and log p the means over the two views,

    infonce_ae    nll − c·log k
    infonce_mim   nll − w·½·(log q + log p) − c·log k

w is `latent_weight` times the warm-up ramp, c is `contrastive_weight`. Where molecules are
labelled, each of them also has the property term, + `property_weight` · `property_error`. Nothing
here knows of process groups: gathered codes come in as `all_latents` with the offset of this rank's
rows.

Sources: MIM (arXiv:1910.03175); MolMIM (arXiv:2208.09016); cMIM (arXiv:2502.19642).
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..data.argument_checks import check_choice
from ..model.gaussian_cmim import log_posterior, log_prior
from .contrastive import check_temperature, contrastive_log_prob, info_nce_loss

OBJECTIVES = (
    "ae", "vae", "mim", "cmim", "cae", "cvae", "infonce", "infonce_ae", "infonce_mim",
)  # fmt: skip
_REDUCTIONS = ("sum", "mean")
_NAMES = ("nll_reduction", "latent_reduction", "latent_warmup_steps", "max_grad_norm")

PRESETS: dict[str, dict[str, str | float]] = {
    # The bound as derived: log-probabilities of whole molecules and whole codes. Sums have
    # gradients a hundred times those of means, which a bound for these would clip at every step.
    "theory": dict(zip(_NAMES, ("sum", "sum", 0, 100.0), strict=True)),
    # MolMIM-70M 24.3: both per element, and the decoder learns to use the code before the
    # densities act on it.
    "molmim": dict(zip(_NAMES, ("mean", "mean", 1000, 1.0), strict=True)),
    # KERMT's public cMIM: long molecules don't outweigh short ones, densities stay sums.
    "kermt": dict(zip(_NAMES, ("mean", "sum", 0, 1.0), strict=True)),
}
"""Training arguments of published trainings that go together."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective returns.

    Attributes:
        loss: (batch,), with gradient; the mean over it is what is minimised.
        terms: The terms the objective has, each (batch,) and detached, after reduction and before
            weighting: "nll", "log_posterior", "log_prior", "log_contrastive", "property_error".
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """A training objective by name, with its weights; call it on the outputs of a model.

    Attributes:
        name: One of `OBJECTIVES`; the module says what each is.
        temperature: τ of the contrastive term or of InfoNCE, in units of the cosine.
        nll_reduction: "sum" over the tokens of a molecule, or "mean".
        latent_reduction: "sum" over the dimensions of a code (num_latents · latent_size), or
            "mean"; for both log-densities.
        latent_weight: Weight of the log-densities.
        contrastive_weight: Weight of the contrastive term or of InfoNCE.
        beta: β of vae and cvae, beside `latent_weight`.
        property_weight: Weight of the property term, where there are properties and labels.

    Raises:
        ValueError: If an attribute is out of its range or has no meaning for this objective.

    >>> output = Objective("cae", temperature=0.5)(latents=torch.eye(3), nll=torch.full((3,), 2.0))
    >>> output.loss, list(output.terms)
    (tensor([2.1269, 2.1269, 2.1269]), ['nll', 'log_contrastive'])
    """

    name: str
    temperature: float = 0.1
    nll_reduction: str = "sum"
    latent_reduction: str = "sum"
    latent_weight: float = 1.0
    contrastive_weight: float = 1.0
    beta: float = 1.0
    property_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check every attribute."""
        check_choice("objective", self.name, OBJECTIVES)
        check_choice("nll_reduction", self.nll_reduction, _REDUCTIONS)
        check_choice("latent_reduction", self.latent_reduction, _REDUCTIONS)
        check_temperature(self.temperature)
        for name in ("latent_weight", "contrastive_weight", "beta", "property_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be finite and ≥ 0, got {getattr(self, name)}.")
        if self.beta != 1.0 and self.name not in ("vae", "cvae"):
            raise ValueError(
                f"`beta` belongs to vae and cvae, got {self.beta} for {self.name!r}; "
                "use `latent_weight` instead."
            )

    @property
    def uses_densities(self) -> bool:
        """Whether log q and log p enter the loss, of codes drawn from the posterior."""
        return self.name in ("vae", "mim", "cmim", "cvae", "infonce_mim")

    @property
    def uses_decoder(self) -> bool:
        """Whether the reconstruction enters the loss."""
        return self.name != "infonce"

    @property
    def uses_contrastive(self) -> bool:
        """Whether codes of different examples are compared, so that ranks must gather them."""
        return self.views == 2 or self.name in ("cmim", "cae", "cvae")

    @property
    def views(self) -> int:
        """Rows of a batch for each example: 2 where augmented views of it are compared."""
        return 2 if self.name.startswith("infonce") else 1

    def __call__(
        self,
        *,
        latents: torch.Tensor,
        nll: torch.Tensor | None = None,
        num_tokens: torch.Tensor | None = None,
        mean: torch.Tensor | None = None,
        log_std: torch.Tensor | None = None,
        all_latents: torch.Tensor | None = None,
        offset: int = 0,
        keys: torch.Tensor | None = None,
        properties: torch.Tensor | None = None,
        property_labels: torch.Tensor | None = None,
        latent_scale: float = 1.0,
    ) -> ObjectiveOutput:
        """Loss and terms of each example.

        With two `views` the batch holds two of each example: `latents` has 2·batch rows, all first
        views and then all second views in the same order. The gathered rows then are those of
        rank 0, first views before second, then those of rank 1, just as gathering leaves them.

        Args:
            latents: (batch, num_latents, latent_size) or (batch, size).
            nll: Of the rows of `latents`, summed over tokens or pixels, in nats; unused by infonce.
            num_tokens: Tokens or pixels summed in `nll`; used by nll_reduction "mean".
            mean: Posterior mean, of the shape of `latents`; used where there are densities.
            log_std: Logarithm of the posterior standard deviation, likewise.
            all_latents: (rows, ...), the codes of all ranks; by default `latents`.
            offset: Row of this rank's first code in `all_latents`.
            keys: int64, one for each example of all ranks, equal for equal ones: (rows,), or
                (rows / 2,) with two views, which share their example's key.
            properties: Predictions, see `property_error`; of the rows of `latents`.
            property_labels: (batch, num_properties), NaN where not known; without one of the two
                there is no property term.
            latent_scale: Position on the warm-up ramp in [0, 1]; it scales the log-densities
                only, not the contrastive term.

        Raises:
            ValueError: If a tensor that the objective needs is missing, or shapes don't fit.
        """
        if not 0.0 <= latent_scale <= 1.0:
            raise ValueError(f"`latent_scale` must lie in [0, 1], got {latent_scale}.")
        terms: dict[str, torch.Tensor] = {}
        if self.uses_decoder:
            terms["nll"] = self._over_views(self._reduced_nll(nll, num_tokens))
        if self.uses_densities:
            mean, log_std = self._require(mean=mean, log_std=log_std)
            size = math.prod(latents.shape[1:]) if self.latent_reduction == "mean" else 1
            terms["log_posterior"] = self._over_views(log_posterior(latents, mean, log_std) / size)
            terms["log_prior"] = self._over_views(log_prior(latents) / size)
        if self.uses_contrastive:
            terms["log_contrastive"] = self._log_contrastive(latents, all_latents, offset, keys)
        if properties is not None and property_labels is not None and self.property_weight:
            error = property_error(properties, property_labels.repeat(self.views, 1))
            terms["property_error"] = self._over_views(error)
        weights = self._weights(self.latent_weight * latent_scale)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum(0)
        return ObjectiveOutput(loss, {name: term.detach() for name, term in terms.items()})

    def _over_views(self, values: torch.Tensor) -> torch.Tensor:
        """Means (batch,) over the views of each example."""
        return values.unflatten(0, (self.views, -1)).mean(0)

    def _weights(self, latent_weight: float) -> dict[str, float]:
        divergence = latent_weight * self.beta
        of_mim = -0.5 * latent_weight
        is_vae = self.name in ("vae", "cvae")
        return {
            "nll": 1.0,
            "log_posterior": divergence if is_vae else of_mim,
            "log_prior": -divergence if is_vae else of_mim,
            "log_contrastive": -self.contrastive_weight,
            "property_error": self.property_weight,
        }

    def _reduced_nll(
        self, nll: torch.Tensor | None, num_tokens: torch.Tensor | None
    ) -> torch.Tensor:
        (nll,) = self._require(nll=nll)
        if self.nll_reduction == "mean":
            (num_tokens,) = self._require(num_tokens=num_tokens)
            nll = nll / num_tokens
        return nll

    def _log_contrastive(
        self,
        latents: torch.Tensor,
        all_latents: torch.Tensor | None,
        offset: int,
        keys: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.views == 1:
            return contrastive_log_prob(
                latents,
                all_latents,
                temperature=self.temperature,
                offset=offset,
                keys=keys,
            )
        rows = len(latents)
        all_latents = latents if all_latents is None else all_latents
        if rows % 2 or len(all_latents) % rows or offset % rows:
            raise ValueError(
                f"{self.name} takes two views of each example, first all first views, then all "
                f"second views, equally many on every rank: got {rows} rows at offset {offset} "
                f"among {len(all_latents)}."
            )
        first, second = latents.chunk(2)
        all_first, all_second = _views(all_latents, rows)
        return -info_nce_loss(
            first,
            second,
            all_first,
            all_second,
            temperature=self.temperature,
            offset=offset // 2,
            keys=keys,
        )

    def _require(self, **tensors: torch.Tensor | None) -> list[torch.Tensor]:
        for name, tensor in tensors.items():
            if tensor is None:
                raise ValueError(f"The objective {self.name!r} needs `{name}`, got None.")
        return [tensor for tensor in tensors.values() if tensor is not None]


def property_error(properties: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The Huber error (δ = 1) of each molecule's properties, its mean over those that are labelled.

    For molecule i, h(p_ij − y_ij) with h(e) = e²/2 for |e| ≤ 1 and |e| − ½ beyond, averaged over
    the j with a label and over the projections; 0, without gradient, for a molecule without any.

    Args:
        properties: (batch, num_properties), or (batch, projections, num_properties), standardised.
        labels: (batch, num_properties), standardised, NaN where not known.

    Returns:
        (batch,), float32 at least.

    Raises:
        ValueError: Shapes that don't fit.
    """
    shape = tuple(properties.shape)
    if len(shape) not in (2, 3) or (shape[0], shape[-1]) != labels.shape:
        raise ValueError(
            "`properties` must be (batch, num_properties) or (batch, projections, num_properties) "
            f"for `property_labels` of {tuple(labels.shape)}, got {shape}."
        )
    if len(shape) == 3:
        labels = labels[:, None]
    properties = properties.to(torch.promote_types(properties.dtype, torch.float32))
    known = ~labels.isnan()
    targets = labels.to(properties.dtype).masked_fill(~known, 0.0).expand_as(properties)
    errors = functional.huber_loss(properties, targets, reduction="none")
    total = errors.masked_fill(~known, 0.0).sum(dim=-1)
    error = total / known.sum(dim=-1).clamp(min=1)
    return error if error.ndim == 1 else error.mean(dim=1)


def _views(gathered: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second views of all ranks, from `rows` consecutive rows of each rank."""
    by_rank = gathered.unflatten(0, (-1, 2, rows // 2))
    return by_rank[:, 0].flatten(0, 1), by_rank[:, 1].flatten(0, 1)
