"""Every setting once: name, type, default, bounds, unit, and where the paper has it.

A field without a default must be given in params.yaml; what has a default here need not be. The
text beneath a field says what it does. `loading.py` reads params.yaml into these classes, `jobs.py`
has what each job is handed of them.
"""

from mrsr.params.schema.data import (
    SPLITS,
    Cutting,
    Data,
    Dataset,
    Degradation,
    Normalise,
    Section,
    Split,
    SplitByCounts,
    SplitByCSV,
    SplitByHash,
    SplitBySource,
    SplitBySubjects,
)
from mrsr.params.schema.networks import (
    Autoencoder,
    AutoencoderDiscriminator,
    AutoencoderNetwork,
    AutoencoderWeights,
    Pretext,
    Segmentation,
    Vit,
    VitNetwork,
    VitTraining,
)
from mrsr.params.schema.results import (
    PRESETS,
    Block,
    Bootstrap,
    Experiment,
    Kind,
    Method,
    Metrics,
    Params,
    Preset,
    Recipe,
    Scale,
    Table,
    Tracking,
    Type,
    VitData,
)
from mrsr.params.schema.trainings import (
    Adversarial,
    Features,
    Loop,
    Optimizer,
    Schedule,
    SuperResolution,
    Training,
)
