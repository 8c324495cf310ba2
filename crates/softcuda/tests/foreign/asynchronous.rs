//! Clusters, mbarriers and bulk copies.

use crate::{Foreign, grid};
use softcuda::{Element, Launch, TensorMap};

#[test]
fn clusters_and_distributed_shared_memory() {
    let f = Foreign::load("cluster");
    let y = f.put(&[0i32; 6]);
    f.run(grid(6, 32), &[y]);
    assert_eq!(f.get::<i32>(y, 6), [11, 1, 11, 1, 11, 1]);
    let fault = f.launch(grid(5, 32), &[y]).expect_err("half a cluster");
    assert!(fault.message().contains("whole clusters"), "{fault}");
}

#[test]
fn bulk_copy_with_a_barrier() {
    let f = Foreign::load("tma");
    let x: Vec<i32> = (0..256).map(|i| 3 * i).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0i32; 256]));
    let counters = f.run(grid(1, 256), &[dx, dy]);
    assert_eq!(f.get::<i32>(dy, 256), x);
    assert_eq!(counters.global_load_sectors, 32);
}

#[test]
fn rings_of_shared_memory() {
    let f = Foreign::load("clusters").choose("ring");
    let (blocks, threads) = (8usize, 64usize);
    let y = f.put(&vec![0i32; blocks * (threads + 2)]);
    let sums = f.put(&vec![0f32; blocks]);
    let launch = Launch { dynamic_shared: 4 * 68, ..grid(8, 64) };
    let params: Vec<u8> = [y, sums].into_iter().flat_map(u64::to_le_bytes).collect();
    let kernel = f.module.kernel("ring").unwrap();
    // What one block does to another's shared memory is ordered by the cluster's barrier.
    f.device.launch_clusters(&kernel, &launch, [4, 1, 1], &params).unwrap_or_else(|fault| panic!("{fault}"));
    let out = f.get::<i32>(y, blocks * (threads + 2));
    for block in 0..blocks {
        let rank = block % 4;
        for i in 0..threads {
            let expected = (rank + 1) % 4 * 100 + (i + 1) % threads;
            assert_eq!(out[block * threads + i], expected as i32, "{block} {i}");
        }
        let count = if rank == 0 { 256 } else { 0 };
        let before = (rank + 3) % 4;
        assert_eq!(out[blocks * threads + block], (before as i32 + 7) * 10000 + count);
        if rank == 0 {
            assert_eq!(out[blocks * (threads + 1) + block], 3063);
            assert_eq!(f.get::<f32>(sums, blocks)[block], 128.0);
        }
    }
}

#[test]
fn clusters_of_two_dimensions() {
    let f = Foreign::load("clusters").choose("square");
    let y = f.put(&[0i32; 2 * 16]);
    f.run(Launch { grid: [4, 4, 1], ..grid(1, 32) }, &[y]);
    let out = f.get::<i32>(y, 32);
    for block in 0..16 {
        let (x, z) = ((block % 4) % 2, (block / 4) % 2);
        assert_eq!(out[2 * block], (x + 10 * z + 2200) as i32);
        assert_eq!(out[2 * block + 1], 2200 * 4 + 22 + 300000);
    }
}

#[test]
fn pipelines_of_stages() {
    let f = Foreign::load("pipelines").choose("staged");
    let x: Vec<i32> = (0..5 * 64).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0i32; 5 * 64]));
    f.run(Launch { dynamic_shared: 2 * 64 * 4, ..grid(1, 64) }, &[dx, dy, 5]);
    let out = f.get::<i32>(dy, 5 * 64);
    (0..5 * 64).for_each(|i| assert_eq!(out[i], 2 * (i / 64 * 64 + 63 - i % 64) as i32, "{i}"));

    let f = Foreign::load("pipelines").choose("own");
    let x: Vec<i32> = (0..256).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0i32; 256]));
    f.run(grid(1, 64), &[dx, dy]);
    let out = f.get::<i32>(dy, 256);
    (0..256).for_each(|i| assert_eq!(out[i], (i / 4 * 4 + 3 - i % 4) as i32));

    let f = Foreign::load("pipelines").choose("split");
    let x: Vec<i32> = (0..32).map(|i| i * i).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0i32; 3 * 96]));
    f.run(grid(1, 96), &[dx, dy, 3]);
    let out = f.get::<i32>(dy, 3 * 96);
    (0..3 * 96).for_each(|i| assert_eq!(out[i], x[i % 96 % 32] + (i / 96 + i % 96) as i32, "{i}"));
}

#[test]
fn tiles_of_two_dimensions() {
    for (x, y, swizzle) in [(0i32, 0i32, 0u8), (16, 8, 0), (4, 3, 0), (40, 20, 3), (8, 8, 3)] {
        let f = Foreign::load("tensor_maps").choose("tile2d");
        let (width, height) = (52u64, 25u64);
        let pitch = 64usize;
        let values: Vec<f32> = (0..pitch * height as usize).map(|i| i as f32).collect();
        let (from, to) = (f.put(&values), f.put(&vec![-1f32; pitch * height as usize]));
        let map = |address| {
            let sizes = [width, height];
            TensorMap::tiled(Element::F32, address, &sizes, &[4 * pitch as u64], &[32, 16], &[1, 1], swizzle, false)
        };
        let mut params = Vec::new();
        params.extend(map(from).unwrap().pack());
        params.extend(map(to).unwrap().pack());
        params.extend(x.to_le_bytes());
        params.extend(y.to_le_bytes());
        let kernel = f.module.kernel("tile2d").unwrap();
        f.device.launch(&kernel, &grid(1, 128), &params).unwrap_or_else(|fault| panic!("{fault}"));
        let out = f.get::<f32>(to, pitch * height as usize);
        for row in 0..height as i32 {
            for column in 0..pitch as i32 {
                let inside = (x..x + 32).contains(&column) && (y..y + 16).contains(&row) && column < width as i32;
                let at = row as usize * pitch + column as usize;
                assert_eq!(out[at], if inside { values[at] * 2.0 + 1.0 } else { -1.0 }, "{x} {y} {row} {column}");
            }
        }
    }
}

#[test]
fn tiles_of_three_dimensions() {
    let f = Foreign::load("tensor_maps").choose("tile3d");
    let sizes = [12u64, 6, 5];
    let values: Vec<i32> = (0..12 * 6 * 5).map(|i| i + 1).collect();
    let (from, out) = (f.put(&values), f.put(&[-1i32; 64]));
    let map = TensorMap::tiled(Element::S32, from, &sizes, &[48, 288], &[8, 4, 2], &[1; 3], 0, false).unwrap();
    let (x, y, z) = (8i32, -1i32, 3i32);
    let mut params = map.pack().to_vec();
    params.extend(out.to_le_bytes());
    [x, y, z].iter().for_each(|v| params.extend(v.to_le_bytes()));
    let kernel = f.module.kernel("tile3d").unwrap();
    f.device.launch(&kernel, &grid(1, 64), &params).unwrap_or_else(|fault| panic!("{fault}"));
    let got = f.get::<i32>(out, 64);
    for i in 0..64i32 {
        let at = [x + i % 8, y + i / 8 % 4, z + i / 32];
        let inside = (0..3).all(|d| at[d] >= 0 && (at[d] as u64) < sizes[d]);
        assert_eq!(got[i as usize], if inside { 1 + at[0] + 12 * at[1] + 72 * at[2] } else { 0 }, "{i}");
    }
}

/// Tensors of 1, 4 and 5 dimensions, edges at every end, steps and swizzles: what lies in shared memory, and what is added elsewhere.
#[test]
fn tiles_of_one_four_and_five_dimensions() {
    // Sizes, tile, steps, where it begins, swizzle.
    type Case = (&'static [u64], &'static [u32], &'static [u32], &'static [i32], u8);
    let cases: [Case; 6] = [
        (&[300], &[256], &[1], &[100], 0),
        (&[300], &[32], &[1], &[20], 3),
        (&[20, 5, 4, 3], &[16, 2, 3, 2], &[1, 1, 2, 1], &[8, 4, 1, 1], 2),
        (&[12, 5, 4, 3], &[8, 2, 3, 2], &[3, 1, 1, 2], &[4, 1, 2, 2], 1),
        (&[8, 3, 4, 2, 3], &[8, 2, 2, 2, 2], &[1; 5], &[4, 2, 3, 1, 2], 1),
        (&[40, 3, 4, 2, 3], &[36, 2, 4, 1, 3], &[1, 2, 2, 1, 1], &[0, 0, 0, 0, 0], 0),
    ];
    for (number, (sizes, tile, steps, start, swizzle)) in cases.into_iter().enumerate() {
        let rank = sizes.len();
        let f = Foreign::load("tiles").choose(["line", "", "", "four", "five"][rank - 1]);
        // In words, from one index to the next, of every dimension.
        let strides: Vec<u64> = (0..rank).map(|d| sizes[..d].iter().product()).collect();
        let count = sizes.iter().product::<u64>() as usize;
        // The innermost step is not looked at.
        let counts: Vec<u32> = (0..rank).map(|d| if d == 0 { tile[0] } else { tile[d].div_ceil(steps[d]) }).collect();
        let words = counts.iter().product::<u32>() as usize;
        let values: Vec<i32> = (0..count as i32).map(|i| 3 * i + 1).collect();
        let (from, to, raw) = (f.put(&values), f.put(&vec![100i32; count]), f.put(&vec![-1i32; words]));
        let map = |address| {
            let bytes: Vec<u64> = strides[1..].iter().map(|stride| 4 * stride).collect();
            TensorMap::tiled(Element::S32, address, sizes, &bytes, tile, steps, swizzle, false).unwrap().pack()
        };
        let mut params = Vec::new();
        if rank == 5 {
            params.extend(f.put(&[map(from), map(to)].concat()).to_le_bytes());
        } else {
            params.extend([map(from), map(to)].concat());
        }
        params.extend(raw.to_le_bytes());
        params.extend((words as u32).to_le_bytes());
        start.iter().for_each(|at| params.extend(at.to_le_bytes()));
        f.device.launch(&f.kernel, &grid(1, 64), &params).unwrap_or_else(|fault| panic!("{number}: {fault}"));
        let (shared, added) = (f.get::<i32>(raw, words), f.get::<i32>(to, count));
        let mut want = vec![100; count];
        for word in 0..words {
            let (mut rest, mut place) = (word as u32, Some(0));
            for d in 0..rank {
                let step = if d == 0 { 1 } else { steps[d] };
                let at = start[d] as i64 + (rest % counts[d] * step) as i64;
                rest /= counts[d];
                let inside = (0..sizes[d] as i64).contains(&at);
                place = place.filter(|_| inside).map(|place| place + at as u64 * strides[d]);
            }
            // 32 words are a line, 4 a piece.
            let moved = (word / 4 % 8) ^ (word / 32 % (1 << swizzle));
            let found = shared[word / 32 * 32 + moved * 4 + word % 4];
            assert_eq!(found, place.map_or(0, |at| values[at as usize]), "{number}: word {word}");
            if let Some(at) = place {
                want[at as usize] += values[at as usize];
            }
        }
        assert_eq!(added, want, "{number}");
    }
}

#[test]
fn bulk_stores_and_reductions() {
    let f = Foreign::load("tensor_maps").choose("bulk1d");
    let x: Vec<i32> = (0..256).collect();
    let (dx, dy, sum) = (f.put(&x), f.put(&[0i32; 256]), f.put(&[1000i32; 256]));
    f.run(grid(1, 64), &[dx, dy, sum]);
    assert_eq!(f.get::<i32>(dy, 256), x.iter().map(|v| v * 3).collect::<Vec<_>>());
    assert_eq!(f.get::<i32>(sum, 256), x.iter().map(|v| v * 3 + 1000).collect::<Vec<_>>());
}

#[test]
fn multicast() {
    let f = Foreign::load("tensor_maps").choose("multicast");
    let x: Vec<i32> = (0..128).map(|i| i * 5).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0i32; 4 * 64]));
    f.run(grid(4, 64), &[dx, dy]);
    let out = f.get::<i32>(dy, 256);
    (0..256).for_each(|i| assert_eq!(out[i], x[i % 64 + if i / 64 == 1 { 64 } else { 0 }], "{i}"));
}
