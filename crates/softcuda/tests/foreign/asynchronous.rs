//! Clusters, mbarriers and bulk copies.

use crate::{Foreign, grid};

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
