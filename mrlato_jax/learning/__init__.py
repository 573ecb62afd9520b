"""Learning to offload: rollouts, advantages, losses, the inner loop and the outer loop (paper IV-C, Algorithm 1).

Where the code uses each setting of `LearningConfig`:
    graphs_per_task                  Algorithm 1, line 6        `inner.draw`
    rollouts                         line 6                     `inner.draw_collection`
    learn_from                       in place of line 6         `inner.draw_collection`
    gamma, gae_lambda                (25), (26)                 `advantages`
    reward_scale, normalise_advantages    before and after (25) `inner.estimate`
    baseline                         in place of (25)           `inner.estimate`
    clip_epsilon                     (23)                       `losses.clipped_surrogate`
    value_coef, entropy_coef         (27)                       `losses.inner_loss`
    inner_lr, inner_lr_decay         line 7                     `inner.inner_optimizer`
    inner_steps                      line 7                     `inner.update`
    meta_batch                       line 3                     `meta_batch.draw_meta_batch`
    outer_lr, outer_lr_decay, meta_update    (29), line 9       `outer.meta_gradient`, `outer.outer_optimizer`;
                                     fomaml, maml               `maml.adapted_gradient`
                                     joint: no inner loop       `joint.joint_steps`
"""
