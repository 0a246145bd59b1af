"""What the losses need of an algorithm's settings, names resolved to pieces."""

from dataclasses import dataclass

from sb3_rfm.common.config import Settings
from sb3_rfm.common.selection import GaussianNoise, make_noise
from sb3_rfm.common.targets import X_T_FROM, WeightedActions, XtFrom
from sb3_rfm.common.temperature import entropy_per_action
from sb3_rfm.sampling.divergences import Divergence
from sb3_rfm.sampling.estimators.posteriors import Estimator
from sb3_rfm.sampling.loss_weightings import LossWeighting, make_loss_weighting


@dataclass(frozen=True)
class Method:
    """
    What the losses need of :class:`sb3_rfm.common.config.Settings`, names resolved to pieces.

    :param estimator: how posterior means are estimated; None with weighted actions
    :param n_times: times t of each state, T; the actor's loss then takes a T-th of the states
    :param mean_q: whether the actor's law is of the mean of the critics, not of their minimum
    :param use_target_critic: whether it is of the target critics
    :param x_t_from: the action that ``x_t`` is mixed from; None with weighted actions
    :param weighted: the actions that the network regresses on in the place of posterior means
    :param value_gradient: weight of the gradient of values through the solver's steps
    :param reference: weight of the distance from the averaged network's predictions
    :param loss_weighting: which error of the regression is squared
    :param divergence: how log pi is computed for the critics' target; None: without entropy
    :param target_noise: added to the actions of the critics' target
    :param reward_scale: what rewards are multiplied by
    :param n_training_candidates: candidates of a state in the actor's loss
    :param target_entropy: nats a coordinate that the temperature is tuned towards; None where it is
        not tuned
    :param rescales_temperature: whether the temperature moves with the unit of the critics' values
    :param bfloat16: whether candidates are drawn, and their values computed, in bfloat16
    """

    estimator: Estimator | None
    n_times: int
    mean_q: bool
    use_target_critic: bool
    x_t_from: XtFrom | None
    weighted: WeightedActions | None
    value_gradient: float
    reference: float
    loss_weighting: LossWeighting
    divergence: Divergence | None
    target_noise: GaussianNoise
    reward_scale: float
    n_training_candidates: int
    target_entropy: float | None
    rescales_temperature: bool
    bfloat16: bool

    @classmethod
    def of(cls, settings: Settings, action_dim: int, bfloat16: bool) -> "Method":
        """
        The method that settings name.

        :param settings: the settings
        :param action_dim: D
        :param bfloat16: whether candidates are drawn, and their values computed, in bfloat16
        :return: the method
        """
        own, update = settings.estimator, settings.actor_update
        objective = update.make_objective()
        share, nats = entropy_per_action(settings.target_entropy)
        x_t_from = update.x_t_from
        return cls(
            estimator=None if own is None else own.build(),
            n_times=1 if own is None else own.n_times,
            mean_q=own is not None and own.q_aggregation == "mean",
            use_target_critic=own is not None and own.use_target_critic,
            x_t_from=None if x_t_from is None else X_T_FROM.resolve(x_t_from, XtFrom),
            weighted=objective if isinstance(objective, WeightedActions) else None,
            value_gradient=update.value_gradient,
            reference=update.reference,
            loss_weighting=make_loss_weighting(update.loss_weighting),
            divergence=settings.critic_update.divergence(),
            target_noise=make_noise("target_noise", settings.critic_update.target_noise),
            reward_scale=settings.critic_update.reward_scale,
            n_training_candidates=settings.n_training_candidates,
            target_entropy=nats / action_dim - share if settings.tunes_temperature else None,
            rescales_temperature=settings.tunes_temperature and settings.divides_values,
            bfloat16=bfloat16,
        )

    def needs_candidates(self, one_step: bool) -> bool:
        """
        Whether the actor's loss makes use of the policy's candidates.

        :param one_step: whether a one-step network is distilled from them
        :return: true if so
        """
        guided = self.estimator is not None and self.estimator.guided
        actions = self.x_t_from or self.weighted
        from_policy = actions is not None and actions.from_policy
        return from_policy or guided or self.target_entropy is not None or one_step

    @property
    def regresses(self) -> bool:
        """Whether the flow network regresses on anything."""
        return self.estimator is not None or self.weighted is not None
