//! Routing tokens to experts, their products, and adding up.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Activations, Gpu, Weights,
        kernels::{ExpertGroups, Experts as Chosen, Gemv, Output as OutputOf, RouterScore, Routing},
    },
};

use crate::support::*;

/// A router's rules, with values on the host.
#[derive(Clone, Debug)]
struct Rules {
    n_experts: usize,
    n_used: usize,
    score: RouterScore,
    bias: Option<Vec<f32>>,
    normalise: bool,
    scale: f32,
    expert_scales: Option<Vec<f32>>,
    groups: Option<(usize, usize)>,
}

impl Rules {
    fn softmax(n_experts: usize, n_used: usize, normalise: bool) -> Rules {
        let score = RouterScore::Softmax;
        Rules { n_experts, n_used, score, bias: None, normalise, scale: 1.0, expert_scales: None, groups: None }
    }

    /// What is added to the scores for choosing.
    fn bias_of(&self, expert: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[expert]))
    }

    fn scores(&self, logits: &[f32]) -> Vec<f64> {
        let all: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let score = |logit: &f32| match self.score {
            RouterScore::Softmax => f64::from(*logit).exp() / all,
            RouterScore::Sigmoid => 1.0 / (1.0 + (-f64::from(*logit)).exp()),
        };
        logits.iter().map(score).collect()
    }

    /// The chosen, the first choice first, and their weights.
    fn reference(&self, logits: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let scores = self.scores(logits);
        let rank = |expert: usize| scores[expert] + self.bias_of(expert);
        let mut ranked: Vec<usize> = (0..logits.len()).collect();
        if let Some((n_groups, n_used)) = self.groups {
            let size = self.n_experts / n_groups;
            let mut best: Vec<usize> = (0..n_groups).collect();
            let sums = self.group_sums(logits);
            best.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
            ranked.retain(|expert| best[..n_used].contains(&(expert / size)));
        }
        ranked.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
        ranked.truncate(self.n_used);
        let used: f64 = ranked.iter().map(|expert| scores[*expert]).sum();
        let divisor = if self.normalise { used.max(6.1035156e-5) } else { 1.0 };
        let of_expert = |expert: usize| self.expert_scales.as_ref().map_or(1.0, |scales| f64::from(scales[expert]));
        let weight = |expert: &usize| scores[*expert] / divisor * f64::from(self.scale) * of_expert(*expert);
        (ranked.iter().map(|expert| *expert as u32).collect(), ranked.iter().map(weight).collect())
    }

    /// The two best ranks of each group, added.
    fn group_sums(&self, logits: &[f32]) -> Vec<f64> {
        let size = self.n_experts / self.groups.map_or(1, |(n_groups, _)| n_groups);
        let ranks: Vec<f64> =
            self.scores(logits).iter().enumerate().map(|(expert, score)| score + self.bias_of(expert)).collect();
        let two_best = |group: &[f64]| {
            let mut group = group.to_vec();
            group.sort_by(|a, b| b.total_cmp(a));
            group.iter().take(2).sum()
        };
        ranks.chunks(size).map(two_best).collect()
    }

    /// Whether rounding cannot change who is chosen, or in which order.
    fn is_clear(&self, logits: &[f32]) -> bool {
        let mut ranks: Vec<f64> =
            self.scores(logits).iter().enumerate().map(|(expert, score)| score + self.bias_of(expert)).collect();
        ranks.sort_by(f64::total_cmp);
        let mut sums = self.group_sums(logits);
        sums.sort_by(f64::total_cmp);
        let are_apart = |values: &[f64]| values.windows(2).all(|pair| pair[1] - pair[0] > 1e-6);
        (self.bias.is_none() && self.groups.is_none()) || (are_apart(&ranks) && are_apart(&sums))
    }

    fn route(&self, gpu: &Gpu, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let upload = |values: &Option<Vec<f32>>| values.as_ref().map(|values| gpu.upload("values", values).unwrap());
        let (bias, expert_scales) = (upload(&self.bias), upload(&self.expert_scales));
        let n_tokens = logits.len() / self.n_experts;
        let experts = Output::<u32>::new(gpu, n_tokens * self.n_used);
        let weights = Output::<f32>::new(gpu, n_tokens * self.n_used);
        let routing = Routing {
            n_experts: self.n_experts,
            n_used: self.n_used,
            score: self.score,
            selection_bias: bias.as_deref(),
            normalise: self.normalise,
            scale: self.scale,
            expert_scales: expert_scales.as_deref(),
            groups: self.groups.map(|(n_groups, n_used)| ExpertGroups { n_groups, n_used }),
        };
        gpu.experts_route(&routing, &gpu.upload("logits", logits).unwrap(), &experts, &weights, n_tokens).unwrap();
        (experts.read(gpu), weights.read(gpu))
    }
}

#[test]
fn tokens_are_routed_to_their_best_experts() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_used) in [(1, 1), (8, 2), (8, 8), (33, 4), (128, 8), (129, 40), (512, 10)] {
        let plain = Rules::softmax(n_experts, n_used, true);
        let unnormalised = Rules { normalise: false, scale: 2.5, ..plain.clone() };
        let expert_scales = Rules { expert_scales: Some(random.values(n_experts, 2.0)), ..plain.clone() };
        let sigmoids = Rules { score: RouterScore::Sigmoid, scale: 1.5, ..plain.clone() };
        let bias = Some(random.values(n_experts, 0.5));
        let biased_softmax = Rules { bias: bias.clone(), ..plain.clone() };
        let biased_sigmoids = Rules { bias, ..sigmoids.clone() };
        let all =
            Rules { normalise: false, expert_scales: expert_scales.expert_scales.clone(), ..biased_sigmoids.clone() };
        for rules in [plain, unnormalised, expert_scales, sigmoids, biased_softmax, biased_sigmoids, all] {
            let logits: Vec<f32> = std::iter::repeat_with(|| random.values(n_experts, 8.0))
                .filter(|row| rules.is_clear(row))
                .take(3)
                .flatten()
                .collect();
            let (experts, weights) = rules.route(&gpu, &logits);
            let want: Vec<_> = logits.chunks(n_experts).map(|row| rules.reference(row)).collect();
            let ids: Vec<u32> = want.iter().flat_map(|(ids, _)| ids.clone()).collect();
            let shares: Vec<f64> = want.into_iter().flat_map(|(_, weights)| weights).collect();
            assert_eq!(experts, ids, "{rules:?}");
            // e^x is good to a few ulp, sums of up to 128 of them in trees.
            assert_close(&format!("{rules:?}"), &weights, &shares, 0.0, 4e-6);
        }
    }
}

/// One launch makes the logits, bit for bit those of a product, and chooses as of any others.
#[test]
fn a_router_chooses_of_the_logits_that_it_makes() {
    let gpu = gpu();
    let mut random = Random::new();
    let arrivals = gpu.upload("arrivals", &[0u32]).unwrap();
    for (n_experts, n_used, n_in) in [(1, 1, 4), (8, 2, 64), (33, 4, 100), (130, 8, 516), (257, 33, 33)] {
        let (matrix, exact) = weights(&gpu, &mut random, TensorType::F32, n_experts, n_in);
        let (x, norm, bias) = (random.values(n_in, 2.0), random.values(n_in, 1.0), random.values(n_experts, 0.5));
        let upload = |values: &[f32]| gpu.upload("values", values).unwrap();
        let (device_x, device_norm, device_bias) = (upload(&x), upload(&norm), upload(&bias));
        for around in [false, true] {
            let [logits, alone] = [(), ()].map(|()| Output::<f32>::new(&gpu, n_experts));
            let (experts, shares) = (Output::<u32>::new(&gpu, n_used), Output::<f32>::new(&gpu, n_used));
            let gemv = Gemv {
                norm: around.then_some((&*device_norm, 1e-6)),
                bias: around.then_some(&*device_bias),
                ..Gemv::new(matrix.all(), &device_x, &logits)
            };
            let routing = Routing { normalise: around, ..Routing::softmax(n_experts, n_used) };
            gpu.experts_router(&gemv, &routing, &experts, &shares, &arrivals).unwrap();
            gpu.gemv(&Gemv { out: OutputOf::F32(&alone), ..gemv }).unwrap();
            let made = logits.read(&gpu);
            assert_eq!(made, alone.read(&gpu), "{n_experts} rows of {n_in}");
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n_in as f64;
            let factor = if around { 1.0 / (mean + 1e-6).sqrt() } else { 1.0 };
            let want: Vec<f64> = (0..n_experts)
                .map(|row| {
                    let row_of = exact[row * n_in..][..n_in].iter().zip(&x).zip(&norm);
                    let product = |((w, x), norm): ((&f64, &f32), &f32)| {
                        w * f64::from(*x) * if around { f64::from(*norm) } else { 1.0 }
                    };
                    row_of.map(product).sum::<f64>() * factor + if around { f64::from(bias[row]) } else { 0.0 }
                })
                .collect();
            assert_close("logits", &made, &want, 5e-5, 1e-6);
            let chosen = Rules::softmax(n_experts, n_used, around).route(&gpu, &made);
            assert_eq!((experts.read(&gpu), shares.read(&gpu)), chosen, "{n_used} of {n_experts}");
            assert_eq!(gpu.read(&arrivals).unwrap(), [0], "as it was");
        }
    }
}

#[test]
fn experts_are_taken_of_the_best_groups() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_used, groups) in [(8, 2, (4, 2)), (64, 8, (8, 4)), (64, 6, (32, 5)), (6, 2, (6, 2))] {
        let plain = Rules { groups: Some(groups), ..Rules::softmax(n_experts, n_used, true) };
        let biased = Rules { bias: Some(random.values(n_experts, 0.5)), ..plain.clone() };
        let sigmoids = Rules { score: RouterScore::Sigmoid, scale: 2.5, ..biased.clone() };
        for rules in [plain, biased, sigmoids] {
            let rows = std::iter::repeat_with(|| random.values(n_experts, 2.0)).filter(|row| rules.is_clear(row));
            let logits: Vec<f32> = rows.take(3).flatten().collect();
            let (experts, weights) = rules.route(&gpu, &logits);
            let want: Vec<_> = logits.chunks(n_experts).map(|row| rules.reference(row)).collect();
            assert_eq!(experts, want.iter().flat_map(|(ids, _)| ids.clone()).collect::<Vec<u32>>(), "{rules:?}");
            let shares: Vec<f64> = want.into_iter().flat_map(|(_, weights)| weights).collect();
            assert_close(&format!("{rules:?}"), &weights, &shares, 0.0, 4e-6);
        }
    }
}

#[test]
fn every_matrix_of_a_stack_is_named_for_each_token() {
    let gpu = gpu();
    for (n_tokens, n) in [(1, 1), (3, 16), (2, 300)] {
        let out = Output::<u32>::new(&gpu, n_tokens * n);
        gpu.experts_every(&out, n_tokens, n).unwrap();
        assert_eq!(out.read(&gpu), (0..n_tokens).flat_map(|_| 0..n as u32).collect::<Vec<u32>>());
    }
}

#[test]
fn a_softmax_over_the_chosen_alone_is_a_normalised_one() {
    let gpu = gpu();
    let mut random = Random::new();
    let logits = random.values(3 * 32, 30.0);
    let (experts, weights) = Rules::softmax(32, 4, true).route(&gpu, &logits);
    for (token, (chosen, weights)) in experts.chunks(4).zip(weights.chunks(4)).enumerate() {
        let exponentials: Vec<f64> =
            chosen.iter().map(|expert| f64::from(logits[token * 32 + *expert as usize]).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        let want: Vec<f64> = exponentials.iter().map(|exponential| exponential / sum).collect();
        assert_close("over the chosen", weights, &want, 1e-30, 4e-6);
    }
}

#[test]
fn weights_are_not_divided_by_less_than_the_least_sum() {
    let gpu = gpu();
    // Chosen by the bias, with scores that are next to nothing.
    let rules = Rules { bias: Some(vec![1.0, 0.0, 2.0]), ..Rules::softmax(3, 2, true) };
    let rules = Rules { score: RouterScore::Sigmoid, ..rules };
    let (experts, weights) = rules.route(&gpu, &[-20.0, 3.0, -21.0]);
    assert_eq!(experts, [2, 0]);
    let want = [21.0f64, 20.0].map(|logit| (-logit).exp() / (1.0 + (-logit).exp()) / 6.1035156e-5);
    assert_close("of next to nothing", &weights, &want, 0.0, 4e-6);
}

#[test]
fn logits_that_are_no_numbers_choose_experts_that_there_are() {
    let gpu = gpu();
    for bias in [None, Some(vec![0.5; 5])] {
        let rules = Rules { bias, expert_scales: Some(vec![1.0; 5]), ..Rules::softmax(5, 3, true) };
        let mut logits = [f32::NAN; 10];
        logits[5..].copy_from_slice(&[1.0, 2.0, f32::NAN, 0.0, f32::NEG_INFINITY]);
        let (experts, weights) = rules.route(&gpu, &logits);
        assert!(experts.iter().all(|expert| *expert < 5), "{experts:?}");
        assert!(weights[..3].iter().all(|weight| weight.is_nan()), "{weights:?}");
    }
}

#[test]
fn equal_experts_are_taken_in_order() {
    let gpu = gpu();
    let mut logits = vec![0.0f32; 80];
    logits[40 + 35] = 1.0;
    let (experts, weights) = Rules::softmax(40, 3, true).route(&gpu, &logits);
    assert_eq!(experts, [0, 1, 2, 35, 0, 1]);
    assert_close("thirds", &weights[..3], &[1.0 / 3.0; 3], 0.0, 1e-6);
}

#[test]
fn each_pair_gets_its_experts_bias() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_pairs, n) in [(1, 1, 1), (8, 6, 257), (5, 9, 300)] {
        let (experts, bias) = (random.indices(n_pairs, n_experts), random.values(n_experts * n, 1.0));
        let before = random.values(n_pairs * n, 3.0);
        let out = Output::<f32>::new(&gpu, n_pairs * n);
        gpu.write(&out, &before).unwrap();
        let (device_experts, device_bias) =
            (gpu.upload("experts", &experts).unwrap(), gpu.upload("bias", &bias).unwrap());
        gpu.experts_bias(&device_experts, &device_bias, &out, n_pairs, n).unwrap();
        let value = |index: usize| before[index] + bias[experts[index / n] as usize * n + index % n];
        assert_eq!(out.read(&gpu), (0..n_pairs * n).map(value).collect::<Vec<f32>>());
    }
}

#[test]
fn each_vector_is_multiplied_by_its_own_expert() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_out, n_in, n_tokens, n_used) in [(4, 5, 64, 3, 2), (3, 130, 32, 2, 1), (8, 9, 256, 5, 3)] {
        for tensor_type in FLOATS {
            let (stack, exact) = weights(&gpu, &mut random, tensor_type, n_experts * n_out, n_in);
            let stack = Weights::of_one_type(stack.data, tensor_type, n_experts, n_out, n_in);
            let n_vectors = n_tokens * n_used;
            let experts = random.indices(n_vectors, n_experts);
            let device_experts = gpu.upload("experts", &experts).unwrap();
            for share in [n_used, 1] {
                let x = random.values(n_vectors / share * n_in, 1.0);
                let out = Output::<f32>::new(&gpu, n_vectors * n_out);
                let device_x = gpu.upload("x", &x).unwrap();
                let experts_of = Chosen { chosen: &device_experts, n_vectors, share };
                gpu.gemv(&Gemv { experts: Some(experts_of), ..Gemv::new(stack.all(), &device_x, &out) }).unwrap();
                let want: Vec<f64> = (0..n_vectors * n_out)
                    .map(|index| {
                        let (vector, row) = (index / n_out, index % n_out);
                        let row = &exact[(experts[vector] as usize * n_out + row) * n_in..][..n_in];
                        let x = &x[vector / share * n_in..][..n_in];
                        row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
                    })
                    .collect();
                assert_close(&format!("{tensor_type} share {share}"), &out.read(&gpu), &want, 2e-5, 1e-6);
            }
        }
    }
}

#[test]
fn quantised_stacks_work_as_float_ones_do() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_experts, n_out, n_in) = (3, 6, 64);
    // Q8_0 with all scales 1: a value is its integer.
    let integers: Vec<i8> = (0..n_experts * n_out * n_in).map(|_| random.bits() as i8).collect();
    let one = half::f16::ONE.to_le_bytes();
    let bytes: Vec<u8> = integers.chunks(32).flat_map(|q| [&one[..], bytemuck::cast_slice(q)].concat()).collect();
    let stack = packed(&gpu, TensorType::Q8_0, &bytes, n_experts, n_out, n_in);
    let experts = [2, 0, 1, 2];
    // 127 in each run of 16 makes the scale of 8-bit activations 1, so that they are these integers too.
    let x: Vec<f32> = (0..4 * n_in).map(|i| if i % 16 == 0 { 127.0 } else { random.below(9) as f32 - 4.0 }).collect();
    let out = Output::<f32>::new(&gpu, experts.len() * n_out);
    let (device_x, device_experts) = (gpu.upload("x", &x).unwrap(), gpu.upload("experts", &experts).unwrap());
    // Integers below 2^24 add up exactly.
    let want: Vec<f32> = (0..experts.len() * n_out)
        .map(|index| {
            let (vector, row) = (index / n_out, index % n_out);
            let row = &integers[(experts[vector] as usize * n_out + row) * n_in..][..n_in];
            row.iter().zip(&x[vector * n_in..]).map(|(q, x)| f32::from(*q) * x).sum()
        })
        .collect();
    for activations in [Activations::F32, Activations::Q8] {
        let experts_of = Chosen { chosen: &device_experts, n_vectors: experts.len(), share: 1 };
        let gemv = Gemv::new(stack.all(), &device_x, &out).activations(activations);
        gpu.gemv(&Gemv { experts: Some(experts_of), ..gemv }).unwrap();
        assert_eq!(out.read(&gpu), want, "{activations:?}");
    }
}

/// Two stacks, the gates' above the up projections', behind RMSNorm.
#[test]
fn each_expert_has_its_gate_and_its_up_projection() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_experts, n_ff, n_in, n_tokens, n_used) = (5, 7, 64, 2, 3);
    let (stacks, exact) = weights(&gpu, &mut random, TensorType::F16, 2 * n_experts * n_ff, n_in);
    let stacks = Weights::of_one_type(stacks.data, TensorType::F16, n_experts, 2 * n_ff, n_in);
    let n_vectors = n_tokens * n_used;
    let experts = random.indices(n_vectors, n_experts);
    let (x, norm) = (random.values(n_tokens * n_in, 2.0), random.values(n_in, 1.0));
    let out = Output::<f32>::new(&gpu, n_vectors * n_ff);
    let (device_x, device_norm) = (gpu.upload("x", &x).unwrap(), gpu.upload("norm", &norm).unwrap());
    let chosen = gpu.upload("experts", &experts).unwrap();
    gpu.gemv(&Gemv {
        experts: Some(Chosen { chosen: &chosen, n_vectors, share: n_used }),
        norm: Some((&device_norm, 1e-6)),
        swiglu: true,
        ..Gemv::new(stacks.all(), &device_x, &out)
    })
    .unwrap();
    let want: Vec<f64> = (0..n_vectors * n_ff)
        .map(|index| {
            let (vector, row) = (index / n_ff, index % n_ff);
            let x = &x[vector / n_used * n_in..][..n_in];
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n_in as f64;
            let product = |stack: usize| {
                let row = (stack * n_experts + experts[vector] as usize) * n_ff + row;
                let weighted = x.iter().zip(&norm).map(|(x, w)| f64::from(*x) * f64::from(*w));
                exact[row * n_in..][..n_in].iter().zip(weighted).map(|(w, x)| w * x).sum::<f64>() / (mean + 1e-6).sqrt()
            };
            let gate = product(0);
            gate / (1.0 + (-gate).exp()) * product(1)
        })
        .collect();
    assert_close("SwiGLU of experts", &out.read(&gpu), &want, 2e-5, 1e-5);
}

#[test]
fn outputs_are_added_up_by_weight() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_tokens, n_used, n) in [(2, 1, 1), (3, 2, 257), (2, 8, 300)] {
        let parts = random.values(n_tokens * n_used * n, 3.0);
        let (weights, residual) = (random.values(n_tokens * n_used, 1.0), random.values(n_tokens * n, 3.0));
        let device_parts = gpu.upload("parts", &parts).unwrap();
        let device_weights = gpu.upload("weights", &weights).unwrap();
        let device_residual = gpu.upload("residual", &residual).unwrap();
        for with_residual in [false, true] {
            let out = Output::<f32>::new(&gpu, n_tokens * n);
            let added = with_residual.then_some(&*device_residual);
            gpu.experts_combine(&device_parts, &device_weights, added, &out, n_tokens, n, n_used).unwrap();
            let want: Vec<f64> = (0..n_tokens * n)
                .map(|index| {
                    let (token, column) = (index / n, index % n);
                    let slots = token * n_used..(token + 1) * n_used;
                    let sum: f64 = slots.map(|s| f64::from(weights[s]) * f64::from(parts[s * n + column])).sum();
                    sum + if with_residual { f64::from(residual[index]) } else { 0.0 }
                })
                .collect();
            assert_close(&format!("{n_tokens}×{n_used}×{n}"), &out.read(&gpu), &want, 1e-5, 0.0);
        }
    }
}
