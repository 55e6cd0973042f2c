# `gpu` is how many processes a training has (0: one, on whatever is there); `--set-resources
# train_sr:gpu=4` or a profile asks for more. Batch and learning rate stay what they are.
#
# Many methods wait for the frozen networks, and for the vision transformer longest: `priority` starts
# those as soon as their slices are there.
rule tracking_store:
    """Initialise the MLflow store once: several writers on a fresh database crash."""
    output:
        f"{RESULTS}/tracking.ready",
    log:
        f"{LOGS}/tracking_store.log",
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=settings("tracking"),
    shell:
        "mrsr tracking-init --settings {params.settings} --out {output} > {log} 2>&1"


rule train_vit_segmentation:
    """Pre-train the vision transformer in 3D on volumes with labels (appendix B)."""
    input:
        unpack(segmentation_inputs),
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{VIT}/segmentation/best.pt",
    log:
        f"{LOGS}/checkpoints/vit/segmentation.log",
    benchmark:
        f"{LOGS}/benchmarks/vit/segmentation.tsv"
    priority: 2
    conda:
        CONDA
    threads: PARAMS.params.vit.segmentation.threads
    resources:
        mem_mb=4000,
        runtime=segmentation_minutes,
        gpu=0,
    params:
        settings=settings("checkpoints/vit/segmentation"),
    shell:
        "python -m mrsr.training.launch {resources.gpu} -m mrsr.training.train_vit"
        " --settings {params.settings} --train {input.train}"
        " --validation {input.validation} --test {input.test} --out {output}"
        " > {log} 2>&1"


rule train_vit_pretext:
    """Fine-tune its encoder on slices of several organs by a pretext task (section 3.2)."""
    input:
        unpack(pretext_inputs),
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{VIT}/{{pretext}}/best.pt",
    log:
        f"{LOGS}/checkpoints/vit/{{pretext}}.log",
    benchmark:
        f"{LOGS}/benchmarks/vit/{{pretext}}.tsv"
    priority: 2
    conda:
        CONDA
    threads: PARAMS.params.vit.finetuning.threads
    resources:
        mem_mb=4000,
        runtime=pretext_minutes,
        gpu=0,
    params:
        settings=settings("checkpoints/vit/{pretext}"),
    shell:
        "python -m mrsr.training.launch {resources.gpu} -m mrsr.training.train_vit"
        " --settings {params.settings} --start {input.start}"
        " --train {input.train} --validation {input.validation} --test {input.test}"
        " --out {output} > {log} 2>&1"


rule train_autoencoder:
    """Train the disentangling auto-encoder of one dataset and scale (section 3.3)."""
    input:
        train=f"{RESULTS}/slices/{{dataset}}/train.h5",
        validation=f"{RESULTS}/slices/{{dataset}}/validation.h5",
        test=f"{RESULTS}/slices/{{dataset}}/test.h5",
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/autoencoder/best.pt",
    log:
        f"{LOGS}/checkpoints/{{dataset}}/x{{scale}}/autoencoder.log",
    benchmark:
        f"{LOGS}/benchmarks/{{dataset}}/x{{scale}}/autoencoder.tsv"
    priority: 1
    conda:
        CONDA
    threads: PARAMS.params.autoencoder.threads
    resources:
        mem_mb=4000,
        runtime=autoencoder_minutes,
        gpu=0,
    params:
        settings=settings("checkpoints/{dataset}/x{scale}/autoencoder"),
    shell:
        "python -m mrsr.training.launch {resources.gpu} -m mrsr.training.train_autoencoder"
        " --settings {params.settings}"
        " --train {input.train} --validation {input.validation} --test {input.test}"
        " --out {output} > {log} 2>&1"


rule train_sr:
    """Train one method on one dataset at one scale; killed and started again, it goes on."""
    input:
        unpack(train_inputs),
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt",
    log:
        f"{LOGS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}.log",
    benchmark:
        f"{LOGS}/benchmarks/{{dataset}}/x{{scale}}/{{method}}.tsv"
    wildcard_constraints:
        method=methods_of("single", "guided", "joint"),
    conda:
        CONDA
    threads: train_threads
    resources:
        mem_mb=3000,
        runtime=sr_minutes,
        gpu=0,
    params:
        settings=settings("checkpoints/{dataset}/x{scale}/{method}"),
        further=further_inputs,
    shell:
        "python -m mrsr.training.launch {resources.gpu} -m mrsr.training.train_sr"
        " --settings {params.settings} --train {input.train}"
        " --validation {input.validation} --test {input.test} {params.further}"
        " --out {output} > {log} 2>&1"


rule train_self:
    """Train one method on the LR slices of each test volume itself (SMORE)."""
    input:
        slices=f"{RESULTS}/slices/{{dataset}}/test.h5",
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt",
    log:
        f"{LOGS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}.log",
    benchmark:
        f"{LOGS}/benchmarks/{{dataset}}/x{{scale}}/{{method}}.tsv"
    wildcard_constraints:
        method=methods_of("self"),
    conda:
        CONDA
    threads: train_threads
    resources:
        mem_mb=3000,
        runtime=self_minutes,
    params:
        settings=settings("checkpoints/{dataset}/x{scale}/{method}"),
    shell:
        "python -m mrsr.training.train_self --settings {params.settings} --slices {input.slices}"
        " --out {output} > {log} 2>&1"


rule checkpoints:
    """The weights of every training."""
    input:
        expand(
            "{results}/checkpoints/{training}/best.pt",
            results=RESULTS,
            training=trainings(),
        ),
