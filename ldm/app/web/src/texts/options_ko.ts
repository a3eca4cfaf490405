/** Korean labels and help of the options, by name. One that is missing here is shown in English. */

export const optionsKo: Record<string, { label: string; help: string } | undefined> = {
  method: { label: "역변환 방법", help: "사진을 잠재 공간의 잡음으로 되돌리는 방법. noise는 역변환 없이 잡음을 더합니다" },
  sampler: { label: "샘플러", help: "역변환에도 쓰입니다. dpm++(2차)는 단계가 더 적게 들고 ddim, direct, noise 방법과 함께 쓸 수 있습니다" },
  steps: { label: "스텝", help: "모든 잡음 수준에 걸친 샘플링 단계 수" },
  strength: { label: "디노이즈 강도", help: "편집이 거치는 잡음 수준의 비율. 작을수록 원래 사진에 가깝습니다" },
  graph_scale: { label: "CFG 스케일 (그래프)", help: "그래프의 가이던스 배율. 1이면 가이던스가 없습니다" },
  style_scale: { label: "CFG 스케일 (스타일)", help: "스타일의 가이던스 배율. 1이면 가이던스가 없습니다" },
  interval: { label: "가이던스 구간", help: "가이던스를 적용하는 잡음 수준의 구간 (0에서 1)" },
  rescale: { label: "가이던스 재조정", help: "가이던스로 커진 대비를 되돌리는 비율" },
  region: { label: "영역", help: "auto: 변경이 닿는 곳만 바꿉니다. none: 어디든 바뀔 수 있습니다" },
  margin: { label: "영역 여백", help: "상자 둘레에서 영역이 그대로 유지되는 거리 (잠재 공간의 칸)" },
  feather: { label: "영역 번짐", help: "그 밖으로 영역이 서서히 사라지는 거리 (잠재 공간의 칸)" },
  reach: { label: "그림자 범위", help: "새로 생기거나 사라지거나 옮긴 것의 그림자와 반사가 상자 밖으로 미치는 거리 (상자 긴 변의 비율)" },
  spare: { label: "다른 객체 보호", help: "다른 객체의 상자 가운데에서 그림자가 건드리지 않는 부분의 비율" },
  floor: { label: "바닥", help: "모든 객체가 서 있는 바닥: 지평선, 먼 끝, 가까운 끝의 높이 (위에서부터의 비율)" },
  keep: { label: "모습 유지", help: "옮긴 객체가 원래 모습을 유지합니다 (MasaCtrl, prompt-to-prompt). U-Net 계산이 두 배로 늘어납니다" },
  passes: { label: "스타일 반복", help: "스타일을 입히는 횟수. 매번 앞의 결과에서 시작합니다" },
  seed: { label: "시드", help: "잡음의 시드, 정수" },
};
