"""Stroke in non-contrast head CT, segmented by comparing the sides of the brain.

Asymmetry disentanglement (ADN, Ni et al., MICCAI 2022) in JAX. Everything that a
program needs is here; `help(adn_jax.predict)` and so on say more.

Use a trained run:
    load_run(run)                  recipe and parameters of a finished run: TrainedModel
    predict(model, path)           lesion, A, P, Q on the scan's own voxels: Prediction
    evaluate_run(run, data=...)    scores, tables, figures, report

Read and prepare:
    read_scan(path)                NIfTI or DICOM to HU with its place (Image, RawScan)
    prepare_scan(given, settings)  strip, resample, window (CaseInput, PreparedCase)
    prepare_dataset(raw, out, settings)  the same for a folder of scans
    write_phantoms(out, cases)     heads with known lesion, tissue, pose, asymmetry

Choose and train:
    load_recipe(path)              a Recipe from a file of configs/
    Recipe, SystemSettings, PrepareSettings  all settings: recipe.with_fields(...)
    train(recipe, data, run)       every stage that is not finished; resumes
    read_manifest(data), open_split(manifest, "train")  a prepared data set
    train_batches(split, batch, seed)  an endless Batch after Batch

The method as pure functions of arrays (letters of the paper: adn_jax.types):
    init_adn(key, system)          fresh AdnParams of T, D and F
    apply_adn(params, volume, system)  the whole chain: AdnOutputs, X and A to Y and O
    make_targets(outputs, batch, recipe)  what the losses compare with: Targets
    joint_loss, align_loss         sums of named terms times weights
    sample(volume, matrix), mirror(volume)  differentiable warp, left-right flip
    make_train_step(loss, optimizer, key), initial_state(params, optimizer)
    TrainState                     what an update changes

UserError is raised for bad input: found, wanted, what to do.
"""

import lazy_loader

# The names are in `__init__.pyi`. Each is imported when it is first asked for: worker
# processes and the command line start without JAX, which takes seconds.
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
