//! Whether rows of a batch may reach each other, as far as a model's operators say.
//!
//! What the operators do, and their axes: <https://onnx.ai/onnx/operators/>.

use std::collections::HashMap;

/// Nodes that are remembered; of a model with more nothing is said, and so nothing is batched.
const MAX_NODES: usize = 1 << 18;

/// Axes and dimensions are few; longer lists are none.
pub(super) const MAX_NUMBERS: usize = 64;

const CONTROLLED: &str = "values decide what runs, or how many values there are";
const SCALED: &str = "it quantizes by the largest value of all rows together (`DynamicQuantizeLinear`)";
const REDUCED: &str =
    "an operator works across rows: a reduction, a softmax or a sort over the first dimension";
const TRAINED: &str = "a normalization takes the mean of all rows";
const UNKNOWN: &str = "it has too many operators to say";

/// What an operator does to rows, where it is not simply rows in, rows out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Does {
    /// Control flow, and as many values out as there are of some kind.
    Controls,
    /// One scale for all that comes in.
    Scales,
    /// Works across the axes that an attribute or the second input names; across all where none does, or only when told.
    Reduces,
    /// Works across one axis; this one where none is named.
    Across(i64),
    /// Normalizes across these where none are named: batch, height, width.
    Normalizes,
    /// Takes the batch's own mean in training.
    Trains,
    /// Gives what is known without the values.
    Shapes,
    /// Changes the order of dimensions.
    Transposes,
    /// Puts dimensions in.
    Unsqueezes,
    /// Gives what is in the file.
    Holds,
    Other,
}

impl Does {
    pub(super) fn of(domain: &str, operator: &str) -> Self {
        match (domain, operator) {
            ("" | "ai.onnx", operator) => match operator {
                "Loop" | "If" | "Scan" | "SequenceMap" | "NonZero" | "Unique" | "Compress"
                | "NonMaxSuppression" => Self::Controls,
                "DynamicQuantizeLinear" => Self::Scales,
                "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" | "LayerNormalization"
                | "RMSNormalization" | "TopK" => Self::Across(-1),
                "ArgMax" | "ArgMin" => Self::Across(0),
                // Its axis is its second input, as a reduction's may be.
                "CumSum" => Self::Reduces,
                "MeanVarianceNormalization" => Self::Normalizes,
                "BatchNormalization" => Self::Trains,
                "Shape" | "Size" => Self::Shapes,
                "Transpose" => Self::Transposes,
                "Unsqueeze" => Self::Unsqueezes,
                "Constant" => Self::Holds,
                reduction if reduction.starts_with("Reduce") => Self::Reduces,
                _ => Self::Other,
            },
            ("com.microsoft", "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM") => Self::Scales,
            _ => Self::Other,
        }
    }
}

/// What is kept of a node. Names are hashes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) does: Does,
    pub(super) inputs: Vec<u64>,
    pub(super) outputs: Vec<u64>,
    /// The axes, the order of dimensions or the values that its attributes name.
    pub(super) numbers: Option<Vec<i64>>,
    /// Whether it trains, or does nothing where no axes are named.
    pub(super) flagged: bool,
}

/// The nodes of a graph or a function, in their order: who gives a value stands before who takes it.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    list: Vec<Node>,
    too_many: bool,
    /// Short integer tensors: axes are often inputs.
    numbers: HashMap<u64, Vec<i64>>,
}

/// Where a value has the rows of requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
enum Rows {
    /// It has none: it is the same for all requests of these shapes.
    #[default]
    Nowhere,
    /// Along its first dimension, as far as is known.
    First,
    /// Somewhere else.
    Elsewhere,
}

impl Nodes {
    pub(super) fn push(&mut self, node: Node) {
        self.too_many |= self.list.len() == MAX_NODES;
        if !self.too_many {
            self.list.push(node);
        }
    }

    /// An initializer's values.
    pub(super) fn know(&mut self, name: u64, numbers: Vec<i64>) {
        if numbers.len() <= MAX_NUMBERS && self.numbers.len() < MAX_NODES {
            self.numbers.insert(name, numbers);
        }
    }

    /// Why rows of `inputs` may reach each other; `None` where no operator lets them, as far as is known. What hides
    /// from this shows on the model's sample, or has to be as contrived as it sounds.
    pub(super) fn rows_meet(&mut self, inputs: impl IntoIterator<Item = u64>) -> Option<&'static str> {
        if self.too_many {
            return Some(UNKNOWN);
        }
        let mut rows: HashMap<u64, Rows> = inputs.into_iter().map(|name| (name, Rows::First)).collect();
        for node in std::mem::take(&mut self.list) {
            let of = |name: &u64| rows.get(name).copied().unwrap_or_default();
            let into = node.inputs.iter().map(of).max().unwrap_or_default();
            let first = node.inputs.first().map(of).unwrap_or_default();
            let named = node.numbers.as_deref();
            let axes = named.or_else(|| self.numbers.get(node.inputs.get(1)?).map(Vec::as_slice));
            let names_first = axes.is_some_and(|axes| axes.contains(&0));
            let names_none = axes.map_or(node.inputs.len() < 2, <[i64]>::is_empty);
            match node.does {
                Does::Controls => return Some(CONTROLLED),
                Does::Scales if into != Rows::Nowhere => return Some(SCALED),
                Does::Reduces if names_none && !node.flagged && first != Rows::Nowhere => {
                    return Some(REDUCED);
                }
                Does::Reduces if names_first && first == Rows::First => return Some(REDUCED),
                Does::Across(axis)
                    if first == Rows::First
                        && named.and_then(|axes| axes.first()).copied().unwrap_or(axis) == 0 =>
                {
                    return Some(REDUCED);
                }
                Does::Normalizes if first == Rows::First && named.is_none_or(|axes| axes.contains(&0)) => {
                    return Some(TRAINED);
                }
                Does::Trains if node.flagged && first != Rows::Nowhere => return Some(TRAINED),
                _ => {}
            }
            let out = match node.does {
                Does::Shapes => Rows::Nowhere,
                Does::Transposes
                    if into == Rows::First && named.and_then(|order| order.first()) != Some(&0) =>
                {
                    Rows::Elsewhere
                }
                Does::Unsqueezes if into == Rows::First && names_first => Rows::Elsewhere,
                _ => into,
            };
            rows.extend(node.outputs.iter().map(|&name| (name, out)));
            if let (Does::Holds, Some(numbers), Some(&name)) = (node.does, node.numbers, node.outputs.first())
            {
                self.know(name, numbers);
            }
        }
        None
    }
}
