// Written by `pnpm generate` from the kernels that take an activation. Do not edit.

/** The names that those kernels use for something else. */
export const reserved: ReadonlySet<string> = new Set(
  `
  F H K KH KW M N Params Pixel Place T TH TW Tap W WG a a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aAt aLoad aStep affine ah
  ahead al all angle at at0 at1 at2 at3 at4 at5 at6 at7 at8 at9 b b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 bAt bLoad bStep
  base batch before begin bh bias biased bits bl blocks blocksO c c0 c1 c2 c3 c4 c5 c6 c7 c8 c9 cAt channel
  channels chunk chunks col cols column columns count count0 count1 count2 count3 count4 count5 count6 count7
  count8 count9 countH countW counter d da db divide dpadded dropped dw dx dy dz e element elements end enter
  eps every every0 every1 every2 every3 every4 every5 every6 every7 every8 every9 everyH everyW factor finish
  finish1 finish4 first firstH firstTap firstW found found0 found1 found2 found3 found4 found5 found6 found7
  found8 found9 g g0 g1 g2 g3 g4 g5 g6 g7 g8 g9 gradAt gradient group groups h h0 half hi hop i id identity
  image inBand inH inW index inner input input0 input1 input2 input3 input4 input5 input6 input7 input8 input9
  inputChannels inputGrads inputPartial inside j join k k0 k1 k2 k3 k4 k5 k6 k7 k8 k9 kBegin kEnd key kh kw
  lane lanes last lda ldb ldc left left0 left1 left2 left3 left4 left5 left6 left7 left8 left9 li line lo load
  m m0 main mask maskBits mean memory middle mirror mode moments momentum mulHigh n n0 name next normal_ o o0
  o1 o2 o3 o4 o5 o6 o7 o8 o9 origin origin0 origin1 origin2 origin3 origin4 origin5 origin6 origin7 origin8
  origin9 originA originB originC originH originW outer output outputAt p pack packed padded paddedH paddedW
  params part partial partialBias partials parts pcg4d perD perPixels perRow perTap perTapW philox pitchH
  pitchW pixel pixelAt pixels place placeAt placeOf plane planes position positions product q quad quads r ra
  radius ranges rb reduce repeat right rng round row rows rstd runningMean runningVar s scale seed series share
  side sigmoid sigmoidGrad size size0 size1 size2 size3 size4 size5 size6 size7 size8 size9 skip slice sm sn
  splits sq square squares start step step0 step1 step2 step3 step4 step5 step6 step7 step8 step9 stepH stepW
  stream stride stride0 stride1 stride2 stride3 stride4 stride5 stride6 stride7 stride8 stride9 strideA strideB
  strideC strideH strideW subgroup sum sums sums0 sums1 sums2 sums3 sums4 sums5 sums6 sums7 sums8 sums9 t t0 t1
  t2 t3 t4 t5 t6 t7 t8 t9 take tap tapAt tapBlocks tapOf taps taps0 taps1 taps2 taps3 taps4 taps5 taps6 taps7
  taps8 taps9 tapsBefore tapsH tapsOf team th thread threads threshold through tile tileA tileB tiles tilesM
  tilesN tilesW to top total tracked turn turned tw tx ty u uniform_ unit update v v0 v1 v2 v3 v4 v5 v6 v7 v8
  v9 va valid value values variance vb vectors w w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 wGroup wInner wOuter wTap wTap0
  wTap1 wTap2 wTap3 wTap4 wTap5 wTap6 wTap7 wTap8 wTap9 weight weightAt weights wg width workgroupMax
  workgroupSum wrap write writeOne x x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 xhat y y0 y1 y2 y3 y4 y5 y6 y7 y8 y9 z
`.match(/\w+/g),
);
